"""The parameters of the node `page`."""

from __future__ import annotations

from vla_nodes.core.settings import Setting

SETTINGS = (
    Setting(
        "contract",
        "sim_panda",
        "Embodiment contract: path of a YAML file, or name of one in config/contracts.",
    ),
    Setting(
        "address",
        "127.0.0.1",
        "Address that the page is served at; any but this machine's own needs a token and TLS.",
    ),
    Setting("port", 8080, "Port of the page; 0: a free one, which the log names.", (0, 65535)),
    Setting(
        "hosts",
        [""],
        "Names and addresses under which browsers may open the page, besides 'address'.",
    ),
    Setting("token_file", "", "File with the token that browsers must give; empty for none."),
    Setting("tls_certificate", "", "Certificate of the page in PEM, with its chain."),
    Setting("tls_key", "", "Private key of the certificate in PEM."),
    Setting(
        "control_timeout",
        60.0,
        "Another viewer may take control from one who commanded nothing for so long [s].",
        (1.0, 86400.0),
    ),
    Setting("directory", "output/bags", "Folder of the episodes: the recorder's."),
    Setting(
        "compressed",
        False,
        "Read sensor_msgs/CompressedImage from TOPIC/compressed instead of raw images.",
    ),
    Setting("image_rate", 10.0, "Most images of each camera a second [Hz].", (0.5, 60.0)),
    Setting("image_width", 640, "Greatest width of the images; others shrink [px].", (32, 4096)),
    Setting("image_quality", 80, "JPEG quality of the images.", (1, 95)),
)
