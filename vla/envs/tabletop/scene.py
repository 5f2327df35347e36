"""MJCF of the table-top scene: table, cabinet with a drawer, bowl, plate, blocks and cans."""

from __future__ import annotations

import numpy as np

from vla.control.robots import panda

BLOCK_SLOTS = 3
CAN_SLOTS = 3
BOWL_RADIUS = 0.065
BOWL_HEIGHT = 0.04
PLATE_RADIUS = 0.075
DRAWER_TRAVEL = 0.125
# Of the handle in the drawer's frame [m]; the drawer slides along -y, towards the table's middle.
HANDLE_OFFSET = np.array([0.0, -0.078, 0.066])
HANDLE_THICKNESS = 0.014
HANDLE_HEIGHT = 0.048
# Half extents of the cabinet [m]: along y and x; of its walls along z, on which the top lies.
CABINET_DEPTH = 0.09
CABINET_WIDTH = 0.11
_CABINET_HEIGHT = 0.041
CABINET_TOP = 2 * _CABINET_HEIGHT + 0.005
# Where things are put on the cabinet, in its frame [m]: its front part, which the arm reaches.
CABINET_PLACE = np.array([0.0, -0.035, CABINET_TOP])
_COLLIDE_STATIC = 'contype="1" conaffinity="1"'


def _bowl() -> str:
    walls = ""
    segments = 14
    half_length = BOWL_RADIUS * np.tan(np.pi / segments) + 0.002
    for index in range(segments):
        angle = 2 * np.pi * index / segments
        x, y = BOWL_RADIUS * np.cos(angle), BOWL_RADIUS * np.sin(angle)
        walls += (
            f'<geom class="bowl" type="box" size="0.003 {half_length:.4f} {BOWL_HEIGHT / 2}" '
            f'pos="{x:.4f} {y:.4f} {BOWL_HEIGHT / 2}" euler="0 0 {angle:.4f}"/>'
        )
    return (
        '<body name="bowl" pos="0.5 -0.2 0">'
        f'<geom class="bowl" type="cylinder" size="{BOWL_RADIUS} 0.003" pos="0 0 0.003"/>'
        f"{walls}</body>"
    )


def _plate() -> str:
    return (
        '<body name="plate" pos="0.5 0 0">'
        f'<geom class="plate" type="cylinder" size="{PLATE_RADIUS} 0.004" pos="0 0 0.004"/>'
        f'<geom class="plate" type="cylinder" size="{PLATE_RADIUS * 0.7:.4f} 0.0045" '
        'pos="0 0 0.0045" rgba="0.75 0.75 0.78 1"/></body>'
    )


def _cabinet() -> str:
    """A cabinet whose inside is hollow towards -y, and its drawer with an upright handle plate."""
    depth, width, height = CABINET_DEPTH, CABINET_WIDTH, _CABINET_HEIGHT
    return f"""
    <body name="cabinet" pos="0.5 0.4 0">
      <geom class="cabinet" type="box" size="{width} 0.006 {height}" pos="0 {depth} {height}"/>
      <geom class="cabinet" type="box" size="0.006 {depth} {height}" pos="{width} 0 {height}"/>
      <geom class="cabinet" type="box" size="0.006 {depth} {height}" pos="-{width} 0 {height}"/>
      <geom class="cabinet" type="box" size="{width} {depth} 0.005" pos="0 0 {2 * height}"/>
      <body name="drawer" pos="0 -{depth} 0.004">
        <joint name="drawer" type="slide" axis="0 -1 0" range="0 {DRAWER_TRAVEL}" damping="12"
               frictionloss="1.5" armature="0.2"/>
        <geom class="drawer" type="box" size="{width - 0.012} 0.006 0.034" pos="0 0 0.038"
              mass="0.4"/>
        <geom class="drawer" type="box" size="{width - 0.016} {depth - 0.01} 0.003"
              pos="0 {depth - 0.005} 0.008" mass="0.2"/>
        <geom class="handle" type="box" size="0.007 {-HANDLE_OFFSET[1] / 2:.4f} 0.006"
              pos="0 {HANDLE_OFFSET[1] / 2} 0.05" mass="0.05"/>
        <geom name="handle" class="handle" type="box"
              size="0.028 {HANDLE_THICKNESS / 2} {HANDLE_HEIGHT / 2}"
              pos="{HANDLE_OFFSET[0]} {HANDLE_OFFSET[1]} {HANDLE_OFFSET[2]}" mass="0.1"
              friction="2 0.05 0.001" condim="4"/>
      </body>
    </body>"""


def _objects() -> str:
    text = ""
    for index in range(BLOCK_SLOTS):
        text += (
            f'<body name="block{index}" pos="-2 {index} -0.6"><freejoint name="block{index}"/>'
            f'<geom name="block{index}" class="object" type="box" size="0.021 0.021 0.021" '
            'mass="0.08"/></body>'
        )
    # A cylinder between two flat pads creeps out of them, so a box of its width is what collides.
    for index in range(CAN_SLOTS):
        text += (
            f'<body name="can{index}" pos="-3 {index} -0.6"><freejoint name="can{index}"/>'
            f'<geom name="can{index}" type="cylinder" size="0.023 0.038" contype="0" '
            'conaffinity="0" mass="0"/>'
            f'<geom name="can{index}_hull" class="object" type="box" group="4" '
            'size="0.019 0.023 0.038" mass="0.1"/>'
            f'<geom name="can{index}_lid" type="cylinder" size="0.018 0.001" pos="0 0 0.038" '
            'rgba="0.8 0.8 0.82 1" contype="0" conaffinity="0" mass="0"/></body>'
        )
    return text


def scene_xml(more_bodies: str = "", more_assets: str = "") -> str:
    """The whole scene; positions, colours and light are set at each reset (see simulator.py).

    more_bodies: MJCF of what only scenes of some families have. more_assets: of their meshes and
    materials.
    """
    return f"""
<mujoco model="table_top">
  <compiler angle="radian" meshdir="{panda.mesh_folder()}" autolimits="true"/>
  <option timestep="0.002" integrator="implicitfast" cone="elliptic" impratio="10">
    <flag multiccd="enable"/>
  </option>
  <size memory="16M"/>
  <statistic extent="4.268909121292823" meansize="0.15645595431349554"
    center="-0.913856928670313 0.563856928670313 -0.06352422791141754"/>
  <visual>
    <global offwidth="1280" offheight="960"/>
    <quality shadowsize="1024" offsamples="4"/>
    <headlight ambient="0.35 0.35 0.35" diffuse="0.25 0.25 0.25" specular="0 0 0"/>
    <map znear="0.02" zfar="20"/>
  </visual>
  <default>
    {panda.defaults()}
    <default class="object">
      <geom friction="1.2 0.02 0.0005" condim="4" solref="0.01 1"/>
    </default>
    <default class="bowl"><geom {_COLLIDE_STATIC} rgba="0.9 0.9 0.85 1"/></default>
    <default class="plate"><geom {_COLLIDE_STATIC} rgba="0.85 0.85 0.9 1"/></default>
    <default class="cabinet"><geom {_COLLIDE_STATIC} rgba="0.5 0.38 0.26 1"/></default>
    <default class="drawer"><geom {_COLLIDE_STATIC} rgba="0.66 0.52 0.36 1"/></default>
    <default class="handle"><geom {_COLLIDE_STATIC} rgba="0.15 0.15 0.17 1"/></default>
  </default>
  <asset>{panda.mesh_assets()}
    <texture type="skybox" builtin="flat" rgb1="0.75 0.78 0.82" width="32" height="32"/>
    {more_assets}
  </asset>
  <worldbody>
    <light name="key" pos="0.6 0.6 1.8" dir="0 -0.3 -1" diffuse="0.6 0.6 0.6" castshadow="true"/>
    <light name="fill" pos="0.8 -0.8 1.6" dir="-0.2 0.4 -1" diffuse="0.3 0.3 0.3"
           castshadow="false"/>
    <geom name="floor" type="plane" size="6 6 0.1" pos="0 0 -0.7" rgba="0.55 0.55 0.57 1"/>
    <geom name="table" type="box" size="0.55 0.65 0.35" pos="0.3 0 -0.35" rgba="0.7 0.65 0.6 1"
          friction="1 0.01 0.0005"/>
    <camera name="front" pos="1.15 0 0.82" xyaxes="0.0000 1.0000 0.0000 -0.7761 0.0000 0.6306"
            fovy="42"/>
    <camera name="overview" pos="1.2 -0.85 0.8" xyaxes="0.7557 0.6549 -0.0000 -0.3388 0.3910 0.8558"
            fovy="45"/>
    {panda.arm_body()}
    {_cabinet()}
    {_bowl()}
    {_plate()}
    {_objects()}
    {more_bodies}
  </worldbody>
  <actuator>{panda.arm_actuators()}</actuator>
</mujoco>"""
