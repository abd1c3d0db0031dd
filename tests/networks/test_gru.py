"""Recurrent networks: torch's own GRU, autograd's dense products over chunks, and steps taken one by one."""

import pytest
import torch
from marks import slow

import matrpo.networks.linearized_policy
from dense import MIXED, dense_hessian, dense_jacobian, draw_samples, make_policy, make_spec
from matrpo.envs.vector_env import ActorInput
from matrpo.networks.gru import GRU, LinearizedGRU
from matrpo.networks.linearized_policy import LinearizedPolicy
from matrpo.networks.sequences import Sequences
from matrpo.sampling.acting import Actor
from matrpo.settings.sections import TrustRegionSettings
from matrpo.trust_region.preconditioner import KroneckerPreconditioner
from matrpo.trust_region.solvers import RecycledSolver
from matrpo.trust_region.step_rule import StepRule

STEPS, CHUNKS, ENVS = 8, 2, 3
DAMPING = 0.05


def _random(*shape, seed=11):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_sequences(state_size: int) -> Sequences:
    """Two chunks of four steps in three environments; episodes start inside chunks, at their first and last steps."""
    starts = torch.zeros(STEPS, ENVS, dtype=torch.bool)
    for t, b in ((0, 1), (2, 0), (3, 2), (4, 2), (5, 0), (5, 1), (7, 1)):
        starts[t, b] = True
    return Sequences(starts, 0.5 * _random(CHUNKS, ENVS, state_size, seed=12))


class Case:
    """A recurrent policy, samples, its linearisation, and autograd's dense J (N, M, D) and H (D, D)."""

    def __init__(
        self, layers: int, activation: str = "selu", hidden: tuple[int, ...] = (5, 4), normalize: bool = False
    ) -> None:
        spec = make_spec(MIXED, 3)
        self.policy = make_policy(spec, 1, 3, activation, hidden, layers, normalize)
        self.sequences = make_sequences(self.policy.network.state_size)
        observations, actions = draw_samples(spec, self.policy, STEPS * ENVS, 5, self.sequences)
        self.samples = observations, actions
        self.model = LinearizedPolicy(self.policy, observations, actions, None, self.sequences)
        self.jacobian = dense_jacobian(self.policy, observations, actions, None, self.sequences)
        self.hessian = dense_hessian(self.policy, observations, None, self.sequences)


@pytest.fixture(
    params=[(1, "selu", (5, 4), False, 1000), (1, "tanh", (4,), True, 12), (2, "relu", (4,), False, 1)],
    ids=["one layer, all chunks at once", "chunk by chunk, normalised", "two layers"],
)
def case(request, monkeypatch):
    *network, limit = request.param
    monkeypatch.setattr(matrpo.networks.linearized_policy, "CHUNK", limit)
    monkeypatch.setattr(matrpo.networks.linearized_policy, "FEWEST", 1)
    return Case(*network)


def test_products_are_those_of_the_dense_jacobian_and_hessian(case):
    direction, weights = _random(case.jacobian.shape[-1]), _random(*case.jacobian.shape[:2])
    ratios = case.jacobian @ direction
    torch.testing.assert_close(case.model.jvp(direction), ratios, rtol=1e-10, atol=1e-12)
    transposed = torch.einsum("nmd,nm->d", case.jacobian, weights) / case.jacobian.shape[1]
    torch.testing.assert_close(case.model.vjp(weights), transposed, rtol=1e-10, atol=1e-12)
    product, same_ratios = case.model.fisher(direction)
    torch.testing.assert_close(product, case.hessian @ direction, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(same_ratios, ratios, rtol=1e-10, atol=1e-12)


def test_no_gradient_goes_back_over_the_start_of_a_chunk_or_of_an_episode(case):
    """Each log probability depends on the observations from the last such start on, and on no earlier one."""
    observations, actions = case.samples
    observations = observations.clone().requires_grad_()
    log_prob = case.policy.distribution(observations, None, case.sequences).log_prob(actions).sum(1)
    first = torch.zeros(STEPS, ENVS, dtype=torch.long)
    for t in range(1, STEPS):
        fresh = case.sequences.starts[t] | torch.tensor(t % (STEPS // CHUNKS) == 0)
        first[t] = torch.where(fresh, t, first[t - 1])
    for m, value in enumerate(log_prob):
        (gradient,) = torch.autograd.grad(value, observations, retain_graph=True)
        t, b = divmod(m, ENVS)
        expected = torch.zeros(STEPS, ENVS, dtype=torch.bool)
        expected[first[t, b] : t + 1, b] = True
        assert torch.equal(gradient.abs().sum(1).view(STEPS, ENVS) > 0, expected)


def test_chunks_give_the_log_probabilities_of_steps_taken_one_by_one():
    spec = make_spec(MIXED, 3)
    policy = make_policy(spec, 1, seed=3, recurrent_layers=2)
    starts = make_sequences(1).starts
    observations = _random(STEPS, ENVS, 3)
    state = torch.zeros(ENVS, policy.network.state_size, dtype=torch.float64)
    states, outputs = [], []
    for t in range(STEPS):
        states.append(state)
        output, after = policy.network.unroll(observations[t : t + 1], starts[t : t + 1], state)
        outputs.append(output[0])
        state = after[-1]
    sequences = Sequences(starts, torch.stack(states[:: STEPS // CHUNKS]))
    blocks = policy.distribution_of(torch.cat(outputs)).blocks
    actions = torch.cat([block.sample(torch.Generator().manual_seed(0)).flatten(1) for block in blocks], dim=1)
    stepped = policy.distribution_of(torch.cat(outputs)).log_prob(actions)
    chunked = policy.distribution(observations.flatten(0, 1), None, sequences).log_prob(actions)
    torch.testing.assert_close(chunked, stepped, rtol=1e-12, atol=1e-14)
    _, all_states = policy.network.unroll(observations, starts, states[0])
    torch.testing.assert_close(all_states, torch.stack([*states, state]), rtol=1e-12, atol=1e-14)


def test_an_actor_forgets_an_episode_that_ended_and_nothing_else():
    spec = make_spec(MIXED, 3)
    policy = make_policy(spec, 1, seed=3, recurrent_layers=1).float()
    generator = torch.Generator().manual_seed(0)
    first, second = (_random(2, 3, seed=seed).float().numpy() for seed in (1, 2))
    goes_on = torch.tensor([False, True]).numpy()
    actor, fresh = Actor(policy, 2), Actor(policy, 2)
    actor.act(ActorInput(first, None, goes_on), generator, deterministic=True)
    remembered = actor.state
    actor.act(ActorInput(second, None, goes_on), generator, deterministic=True)
    fresh.act(ActorInput(second, None, goes_on), generator, deterministic=True)
    assert not torch.allclose(actor.state[0], fresh.state[0])
    assert torch.equal(actor.state[1], fresh.state[1])
    assert remembered.shape == (2, policy.network.state_size)


def test_a_layer_is_torchs_gru():
    layer = GRU(3, 4, torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(_random(*parameter.shape, seed=parameter.numel()))
    reference = torch.nn.GRU(3, 4).double()
    ours = (layer.input.weight, layer.recurrent.weight, layer.input.bias, layer.recurrent.bias)
    with torch.no_grad():
        for theirs, value in zip(reference.parameters(), ours, strict=True):
            theirs.copy_(value)
    inputs, state = _random(6, 5, 3), _random(5, 4)
    expected, _ = reference(inputs, state.unsqueeze(0))
    never = torch.zeros(6, 5, dtype=torch.bool)
    torch.testing.assert_close(layer(inputs, never, state), expected)
    with torch.no_grad():
        torch.testing.assert_close(LinearizedGRU(layer, inputs, never, state).outputs, expected.flatten(0, 1))


def test_a_minibatch_of_segments_is_their_part_of_the_rollout():
    case = Case(layers=1)
    observations, actions = case.samples
    whole = case.policy.distribution(observations, None, case.sequences).log_prob(actions)
    chosen = torch.tensor([4, 0, 5])
    rows, part = case.sequences.select(chosen)
    assert rows.view(4, 3).T.tolist() == [[13, 16, 19, 22], [0, 3, 6, 9], [14, 17, 20, 23]]
    torch.testing.assert_close(
        case.policy.distribution(observations[rows], None, part).log_prob(actions[rows]), whole[rows]
    )


@pytest.mark.parametrize("layers", [slow(1), 2])
def test_the_preconditioned_solver_finds_the_dense_solution(layers):
    case = Case(layers)
    dimension = len(case.hessian)
    weights = _random(*case.jacobian.shape[:2])
    gradient = torch.einsum("nmd,nm->d", case.jacobian, weights) / case.jacobian.shape[1]
    exact = torch.linalg.solve(case.hessian + DAMPING * torch.eye(dimension, dtype=torch.float64), gradient)
    preconditioner = KroneckerPreconditioner(case.model.kronecker_factors(), DAMPING)
    for precondition in (preconditioner, lambda v: v):
        solver = RecycledSolver(
            case.model,
            StepRule(0.01, 0.0),
            precondition,
            TrustRegionSettings(
                damping=DAMPING,
                cg_iterations=dimension,
                solver_tolerance=1e-10,
                solver_extension=1,
                solver_check_every=1,
            ),
        )
        solver.solve(weights)
        expected = exact * (2 * 0.01 / (gradient @ exact)).sqrt()
        torch.testing.assert_close(solver.x, expected, rtol=1e-6, atol=1e-9)


def test_the_preconditioner_is_symmetric_and_positive_definite():
    model = Case(layers=1).model
    precondition = KroneckerPreconditioner(model.kronecker_factors(), DAMPING)
    matrix = torch.stack([precondition(row) for row in torch.eye(model.parameters.numel(), dtype=torch.float64)])
    torch.testing.assert_close(matrix, matrix.T)
    assert float(torch.linalg.eigvalsh(matrix)[0]) > 0.0
