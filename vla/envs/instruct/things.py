"""What stands on the table: blocks and cans, and what training never shows.

That is further shapes, colours and patterns. What a thing is, its name says: "large red can",
"striped block", "banana".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from vla.core.shown import listed
from vla.envs.instruct.meshes import Mesh, arc, mesh_xml, prism, star, tube, turned
from vla.envs.tabletop.layout import COLOR_VALUES

_WHITE = (0.95, 0.95, 0.95)
SIZES: Mapping[str, float] = MappingProxyType({"small": 0.8, "large": 1.2})
NEW_COLORS: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "orange": (0.95, 0.45, 0.05),
        "pink": (0.95, 0.45, 0.65),
        "white": _WHITE,
        "black": (0.06, 0.06, 0.07),
        "brown": (0.35, 0.20, 0.10),
        "turquoise": (0.10, 0.75, 0.75),
    }
)
# Two colours each.
PATTERNS: Mapping[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = MappingProxyType(
    {
        "striped": ((245, 130, 20), (250, 250, 250)),
        "checkered": ((15, 15, 15), (245, 245, 245)),
        "dotted": ((250, 250, 250), (200, 20, 60)),
    }
)
_TEXTURE = 48  # side of a texture [px]
_BLOCK, _CAN = (0.021, 0.021, 0.021), (0.023, 0.038)


@dataclass(frozen=True)
class Shape:
    """A kind of thing that training never shows: what is seen of it, and a box that collides."""

    box: tuple[float, float, float]  # half extents along x, y and z [m]; fingers close along y
    mesh: Mesh | None = None
    color: tuple[float, float, float] = (1.0, 1.0, 1.0)  # of the mesh, where its name says no other
    more: str = ""  # MJCF of what is seen besides
    names: tuple[str, ...] = ()  # by which an answer may call it, too


def _banana() -> Mesh:
    line = arc(0.05, 1.9)
    return tube(line, [0.004, 0.01, *[0.016] * (len(line) - 4), 0.01, 0.004])


def _ring() -> Mesh:
    angles = np.arange(24) * 2 * np.pi / 24
    line = np.stack([0.017 * np.cos(angles), 0.017 * np.sin(angles), 0 * angles], axis=1)
    return tube(line, [0.01] * 24, closed=True)


def _carrot() -> Mesh:
    line = np.stack([np.linspace(-0.045, 0.045, 8), np.zeros(8), np.zeros(8)], axis=1)
    return tube(line, np.linspace(0.004, 0.016, 8).tolist())


_SEEN = 'contype="0" conaffinity="0" mass="0"'
SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "banana": Shape((0.036, 0.017, 0.016), _banana(), (0.95, 0.85, 0.20)),
        "star": Shape(
            (0.022, 0.020, 0.017), prism(star(5, 0.033, 0.016), 0.017), (0.95, 0.45, 0.65)
        ),
        "ring": Shape((0.025, 0.026, 0.012), _ring(), (0.10, 0.75, 0.75)),
        "pyramid": Shape(
            (0.019, 0.019, 0.024), turned([(0.028, -0.024), (0.0, 0.024)], sides=4), _WHITE
        ),
        "mug": Shape(
            (0.024, 0.026, 0.036),
            turned([(0.024, -0.036), (0.026, 0.036), (0.021, 0.036), (0.019, -0.025)]),
            _WHITE,
            f'<geom type="capsule" size="0.004" fromto="0.024 0 0.02 0.044 0 0.012" {_SEEN}/>'
            f'<geom type="capsule" size="0.004" fromto="0.044 0 0.012 0.044 0 -0.012" {_SEEN}/>'
            f'<geom type="capsule" size="0.004" fromto="0.044 0 -0.012 0.024 0 -0.02" {_SEEN}/>',
            ("cup",),
        ),
        "bottle": Shape(
            (0.019, 0.021, 0.050),
            turned([(0.021, -0.05), (0.021, 0.01), (0.016, 0.022), (0.008, 0.03), (0.008, 0.05)]),
            (0.10, 0.45, 0.35),
        ),
        "sponge": Shape(
            (0.034, 0.022, 0.014),
            more='<geom type="box" size="0.034 0.022 0.009" pos="0 0 0.005" '
            f'rgba="0.95 0.80 0.20 1" {_SEEN}/>'
            '<geom type="box" size="0.034 0.022 0.005" pos="0 0 -0.009" '
            f'rgba="0.10 0.40 0.15 1" {_SEEN}/>',
        ),
        "ladle": Shape(
            (0.048, 0.013, 0.012),
            more='<geom type="capsule" size="0.005" fromto="-0.05 0 0 0.02 0 0" '
            f'rgba="0.70 0.72 0.75 1" {_SEEN}/>'
            '<geom type="ellipsoid" size="0.022 0.015 0.009" pos="0.036 0 0" '
            f'rgba="0.70 0.72 0.75 1" {_SEEN}/>',
        ),
        "egg": Shape(
            (0.021, 0.020, 0.020),
            more='<geom type="ellipsoid" size="0.027 0.021 0.021" '
            f'rgba="0.96 0.88 0.78 1" {_SEEN}/>',
        ),
        "carrot": Shape(
            (0.036, 0.015, 0.015),
            _carrot(),
            (0.95, 0.45, 0.05),
            '<geom type="ellipsoid" size="0.014 0.008 0.008" pos="0.055 0 0" '
            f'rgba="0.15 0.55 0.15 1" {_SEEN}/>',
        ),
        "apple": Shape(
            (0.020, 0.025, 0.023),
            turned(
                [(0.01, -0.023), (0.021, -0.015), (0.026, 0.002), (0.022, 0.018), (0.008, 0.02)]
            ),
            (0.75, 0.08, 0.10),
            '<geom type="capsule" size="0.002" fromto="0 0 0.018 0.003 0 0.032" '
            f'rgba="0.3 0.2 0.1 1" {_SEEN}/>',
        ),
        "candle": Shape(
            (0.015, 0.016, 0.040),
            turned([(0.016, -0.04), (0.016, 0.04)]),
            (0.95, 0.93, 0.85),
            '<geom type="ellipsoid" size="0.005 0.005 0.012" pos="0 0 0.05" '
            f'rgba="1.0 0.6 0.1 1" {_SEEN}/>',
        ),
        "die": Shape(
            (0.019, 0.019, 0.019),
            more=f'<geom type="box" size="0.019 0.019 0.019" material="dotted" {_SEEN}/>',
            names=("dice",),
        ),
    }
)
KINDS = ("block", "can", *SHAPES)


@dataclass(frozen=True)
class Thing:
    """One thing on the table, as its name describes it."""

    name: str  # such as "large red can"
    kind: str  # one of KINDS
    scale: float = 1.0
    color: tuple[float, float, float] | None = None
    pattern: str = ""

    @property
    def size(self) -> tuple[float, ...]:
        """Half extents of what collides, or radius and half height of a can [m]."""
        if self.kind == "can":  # wide ones slip through the fingers
            radius, half_height = _CAN
            return (1.0 + self.scale) / 2 * radius, self.scale * half_height
        if self.kind == "block":
            return tuple(self.scale * length for length in _BLOCK)
        return SHAPES[self.kind].box

    @property
    def reach(self) -> float:
        """How far it extends from its middle along the table [m]."""
        return max(self.size[:1] if self.kind == "can" else self.size[:2])

    @property
    def is_new(self) -> bool:
        """Whether training never shows its shape, its colour or its pattern."""
        known = self.color is not None and self.color in COLOR_VALUES.values()
        return self.kind in SHAPES or bool(self.pattern) or not known


def read_thing(name: str) -> Thing:
    """The thing that a name describes. Raises ValueError, which says how things are called."""
    *words, kind = name.split() or [""]
    colors = {**COLOR_VALUES, **NEW_COLORS}
    scale, color, pattern = 1.0, None, "dotted" if kind == "die" else ""
    is_plain = kind in ("block", "can")
    if words and is_plain and words[0] in SIZES:
        scale = SIZES[words.pop(0)]
    if words and words[0] in colors and (is_plain or (kind in SHAPES and SHAPES[kind].mesh)):
        color = colors[words.pop(0)]
    elif words and is_plain and words[0] in PATTERNS:
        pattern = words.pop(0)
    if words or kind not in KINDS or (is_plain and color is None and not pattern):
        painted = [shape for shape, entry in SHAPES.items() if entry.mesh]
        raise ValueError(
            f"'{name}' is no thing; a name is {listed(SIZES)} or no size, a colour "
            f"({listed(colors)}) or pattern ({listed(PATTERNS)}), and block or can; or one of "
            f"{listed(SHAPES)}, with a colour or without for {listed(painted)}"
        )
    return Thing(name, kind, scale, color, pattern)


def other_names(kind: str) -> tuple[str, ...]:
    """What a kind of thing may be called besides."""
    return SHAPES[kind].names if kind in SHAPES else {"block": ("cube",), "can": ("tin",)}[kind]


def bodies_xml(things: Iterable[Thing]) -> str:
    """MJCF of the bodies of those that training's scenes have none for, called as the things."""
    return "".join(_body(thing) for thing in things if thing.kind in SHAPES)


def _body(thing: Thing) -> str:
    shape = SHAPES[thing.kind]
    seen = shape.more
    if shape.mesh is not None:
        red, green, blue = thing.color or shape.color
        seen += f'<geom type="mesh" mesh="{thing.kind}" rgba="{red} {green} {blue} 1" {_SEEN}/>'
    box = " ".join(f"{length:.4f}" for length in shape.box)
    return (
        f'<body name="{thing.name}" pos="-2 2 -0.6"><freejoint name="{thing.name}"/>'
        f'<geom class="object" type="box" group="4" size="{box}" mass="0.08"/>{seen}</body>'
    )


def assets_xml(things: Iterable[Thing]) -> str:
    """MJCF of the meshes and materials that these things need."""
    things = list(things)
    kinds = dict.fromkeys(thing.kind for thing in things if thing.kind in SHAPES)
    meshes = {kind: SHAPES[kind].mesh for kind in kinds}
    text = "".join(mesh_xml(kind, mesh) for kind, mesh in meshes.items() if mesh is not None)
    for pattern in dict.fromkeys(thing.pattern for thing in things if thing.pattern):
        text += (
            f'<texture name="{pattern}" type="cube" builtin="flat" width="{_TEXTURE}" '
            f'height="{6 * _TEXTURE}"/><material name="{pattern}" texture="{pattern}"/>'
        )
    return text


def pattern_pixels(pattern: str) -> np.ndarray:
    """A texture for all six sides of a cube: uint8 [6 * side, side, 3]."""
    row, column = np.indices((_TEXTURE, _TEXTURE))
    cell = _TEXTURE // 3
    if pattern == "striped":
        marked = (row // (_TEXTURE // 6)) % 2 == 0
    elif pattern == "checkered":
        marked = (row // cell + column // cell) % 2 == 0
    else:
        marked = np.hypot(row % cell - cell / 2, column % cell - cell / 2) > cell / 4
    one, other = PATTERNS[pattern]
    side = np.where(marked[..., None], np.array(one), np.array(other)).astype(np.uint8)
    return np.tile(side, (6, 1, 1))
