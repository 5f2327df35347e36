"""The image of the robot's usual camera."""


def get_image_from_maniskill2_obs_dict(env, obs, camera_name=None):
    """As SimplerEnv's, by the robot."""
    if camera_name is None:
        camera_name = {"g": "overhead_camera", "w": "3rd_view_camera"}[env.robot_uid[0]]
    return obs["image"][camera_name]["rgb"]
