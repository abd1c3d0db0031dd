"""DNA-MARL's entry in the algorithm registry: the settings that its processes read. Nothing here needs torch."""

from __future__ import annotations

from typing import ClassVar

from matrpo.settings.algorithm_names import READ_BY_ALL


class DNAMARL:
    """Networked advantage actor-critics that learn the team's value (Varela et al. 2025).

    No class trains all of its agents: `matrpo.algorithms.dnamarl.TeamValueAgent` is one of them.
    """

    settings_read: ClassVar[frozenset[str]] = READ_BY_ALL | {
        "topology",
        *("hidden_sizes", "feature_normalization", "activation", "orthogonal_initialization"),
        *("recurrent_layers", "chunk_length", "initial_log_std"),
        *("gae_lambda", "critic_epochs", "critic_batch", "critic_lr", "huber_delta", "value_clip", "max_grad_norm"),
        *("actor_lr", "policy_epochs", "policy_batch", "entropy_coef"),
        *("beta", "admm_iterations", "schedule", "wire_dtype"),
        *("link_deadline", "link_resend", "env_servers", "on_agent_loss", "agent_deadline"),
        *("transport", "port", "insecure"),
    }
