"""RoboVLMs: any vision-language backbone in one of four structures, with a policy head."""
