"""Model nodes whose model runs elsewhere: what they are told, and how they connect.

`vla serve` holds the weights; the node sends it observations and publishes what it answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from vla.core.files import read_text
from vla_nodes.core.node import ManagedNode
from vla_nodes.core.settings import Setting

if TYPE_CHECKING:
    from vla.serving.link import ServerLink
    from vla.serving.remote import RemotePart

SERVER_SETTINGS = (
    Setting(
        "server",
        "",
        "Address of a 'vla serve' that runs the model, ws://HOST:PORT or wss://HOST:PORT; empty: "
        "it runs here. With a server, 'checkpoint' is not read, and 'adapter' is a name there.",
    ),
    Setting("server_token_file", "", "File with the token that the server asks for; empty: none."),
    Setting(
        "server_authority",
        "",
        "PEM file of the certificates to trust for wss; empty: those of the system.",
    ),
    Setting(
        "server_timeout",
        2.0,
        "Longest wait for the server's answer; then it connects again [s].",
        bounds=(0.05, 60.0),
    ),
    Setting(
        "observation_transport",
        "raw",
        "How images travel to the server: raw, or jpeg, which is smaller and changes them.",
        choices=("raw", "jpeg"),
    ),
)


Part = TypeVar("Part", bound="RemotePart")


def connected(node: ManagedNode, kind: Callable[[ServerLink, str], Part]) -> Part:
    """The part of that kind on the server of the node's parameters. Raises ValueError."""
    from vla.serving.link import ServerLink

    settings = node.settings
    file = settings["server_token_file"]
    link = ServerLink(
        settings["server"],
        settings["server_timeout"],
        read_text(file, ValueError, 4096).strip() if file else "",
        settings["server_authority"],
    )
    node.cleanups.callback(link.close)
    part = kind(link, settings["observation_transport"])
    if name := settings["adapter"]:
        part.set_adapter(part.open_adapter(name))
    node.get_logger().info(f"{link.address} serves checkpoint {part.checkpoint_id}")
    return part


def require_packages() -> None:
    """Raises ValueError where the packages for a server's clients are not installed."""
    try:
        import msgpack  # noqa: F401
        import websockets  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"parameter 'server' needs the packages websockets and msgpack ({error}): "
            "pip install 'vla-ros[serve]'"
        ) from None


def is_server_lost(error: Exception) -> bool:
    """Whether an error says that a server gave no answer."""
    try:
        from vla.serving.link import LinkError
    except ImportError:
        return False
    return isinstance(error, LinkError)
