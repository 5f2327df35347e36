"""ActionChunk messages and the library's action chunks, each made from the other."""

from __future__ import annotations

import numpy as np
from vla_ros.msg import ActionChunk as ActionChunkMessage

from vla.contract.embodiment import ContractError, EmbodimentContract
from vla.control.chunk import ActionChunk
from vla.core.shown import brief
from vla.observations.messages import raw_pose
from vla_nodes.core.conversions import stamp_to_seconds


def message_from_actions(
    actions: np.ndarray,
    contract: EmbodimentContract,
    checkpoint_id: str,
    instruction_id: int,
    observation,
    latent_stamp=None,
) -> ActionChunkMessage:
    """The message of a chunk.

    actions [H, 7]: un-normalised, as the contract says. observation: the message that it was
    computed from. latent_stamp: of the observation behind its latent action; None for a policy
    without one.
    """
    message = ActionChunkMessage(
        instruction_id=instruction_id,
        latent_stamp=latent_stamp or observation.header.stamp,
        horizon=actions.shape[0],
        action_dim=actions.shape[1],
        time_step=contract.time_step,
        action_names=list(contract.action_names),
        representation=contract.representation,
        actions=np.asarray(actions, dtype=np.float32).ravel(),
        reference_pose=observation.end_effector_pose,
        checkpoint_id=checkpoint_id,
        contract_id=contract.contract_id,
    )
    message.header.stamp = observation.header.stamp
    message.header.frame_id = contract.base_frame
    return message


def chunk_from_message(message: ActionChunkMessage, contract: EmbodimentContract) -> ActionChunk:
    """The chunk of a message. Raises ContractError that names everything that does not match."""
    size = len(contract.action_names)
    wrong = [
        f"{name} is {brief(found, 120)}, expected {expected!r}"
        for name, found, expected in (
            ("contract_id", message.contract_id, contract.contract_id),
            ("frame_id", message.header.frame_id, contract.base_frame),
            ("representation", message.representation, contract.representation),
            ("action_names", list(message.action_names), list(contract.action_names)),
            ("horizon", message.horizon, contract.horizon),
            ("action_dim", message.action_dim, size),
            ("number of values", len(message.actions), contract.horizon * size),
        )
        if found != expected
    ]
    if wrong:
        raise ContractError(
            f"the action chunk does not follow contract '{contract.name}' (give all nodes the same "
            "contract and checkpoint): " + "; ".join(wrong)
        )
    position, quaternion = raw_pose(message.reference_pose)
    return ActionChunk(
        stamp=stamp_to_seconds(message.header.stamp),
        time_step=message.time_step,
        actions=np.array(message.actions, dtype=np.float64).reshape(contract.horizon, -1),
        reference_position=position,
        reference_quaternion=quaternion,
        instruction_id=message.instruction_id,
        latent_stamp=stamp_to_seconds(message.latent_stamp),
    )
