"""Where the pictures of real places would be."""

from pathlib import Path

ASSET_DIR = Path(__file__).parent
