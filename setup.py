"""Adds what pyproject.toml cannot list: data files by folder, where colcon puts them, too."""

from pathlib import Path

from setuptools import setup

FOLDERS = ("config", "msg")

folders = [
    path
    for root in FOLDERS
    for path in (Path(root), *Path(root).rglob("*"))
    if path.is_dir() and path.name != "__pycache__"
]
setup(
    data_files=[
        (f"share/vla_ros/{folder}", [str(file) for file in folder.iterdir() if file.is_file()])
        for folder in sorted(folders)
    ]
)
