"""MATRPO's entry in the algorithm registry: the settings that its processes read. Nothing here needs torch."""

from __future__ import annotations

from typing import ClassVar

from matrpo.settings.algorithm_names import READ_BY_ALL


class MATRPO:
    """Decentralised multi-agent trust region policy optimisation (Li & He), Algorithm 1.

    No class trains all of its agents: `agent.Agent` is one of them.
    """

    settings_read: ClassVar[frozenset[str]] = READ_BY_ALL | {
        "topology",
        *("hidden_sizes", "feature_normalization", "activation", "orthogonal_initialization"),
        *("recurrent_layers", "chunk_length", "initial_log_std"),
        *("gae_lambda", "critic_epochs", "critic_batch", "critic_lr", "huber_delta", "value_clip", "max_grad_norm"),
        *("kl_step", "kl_decay", "damping", "step_damping", "fisher_samples", "solver", "cg_iterations", "step_rule"),
        *("solver_tolerance", "solver_extension", "solver_check_every"),
        *("backtrack_limit", "backtrack_factor", "backtrack_kl"),
        *("consensus", "beta", "admm_iterations", "schedule", "wire_dtype", "consensus_samples", "model_epochs"),
        *("link_deadline", "link_resend", "env_servers", "on_agent_loss", "agent_deadline"),
        *("transport", "port", "insecure"),
    }
