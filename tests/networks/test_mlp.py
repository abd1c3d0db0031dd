"""Networks: initial scale, activations' derivatives, and flat parameters."""

import pytest
import torch

from matrpo.networks.mlp import ACTIVATIONS, MLP, HiddenFunction, flat_parameters, set_flat_parameters
from matrpo.settings.sections import NetworkSettings


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_derivatives_are_functions_of_the_output(name):
    activation = ACTIVATIONS[name]
    inputs = torch.linspace(-3.0, 3.0, 24, dtype=torch.float64, requires_grad=True)
    outputs = activation.function(inputs)
    (expected,) = torch.autograd.grad(outputs.sum(), inputs)
    torch.testing.assert_close(activation.derivative(outputs.detach()), expected)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_what_is_done_in_place_is_the_same_to_the_bit(name, normalize):
    function = HiddenFunction(ACTIVATIONS[name], normalize)
    inputs = torch.randn(7, 19, generator=torch.Generator().manual_seed(0))
    expected = function(inputs)
    assert torch.equal(function.apply_(inputs.clone()), expected)
    assert torch.equal(function.linearize(inputs.clone())[0], expected)


def test_tanh_is_the_hyperbolic_tangent():
    inputs = torch.linspace(-20.0, 20.0, 2001, dtype=torch.float64)
    for dtype, error in ((torch.float64, 1e-15), (torch.float32, 2e-7)):
        found = ACTIVATIONS["tanh"].function(inputs.to(dtype))
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), inputs.to(dtype).double().tanh(), rtol=0.0, atol=error)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_layers_keep_the_scale_of_their_inputs(name):
    network = MLP((64, 256, 256, 8), NetworkSettings(activation=name), torch.Generator().manual_seed(0))
    outputs = network(torch.randn(2000, 64, generator=torch.Generator().manual_seed(1)))
    assert 0.5 < float(outputs.detach().std()) < 2.0


def test_orthogonal_matrices_keep_lengths():
    networks = NetworkSettings(activation="tanh", orthogonal_initialization=True)
    network = MLP((32, 32, 32), networks, torch.Generator().manual_seed(0))
    first, last = (layer.weight.detach() for layer in network.linear_layers)
    torch.testing.assert_close(first.T @ first, (5.0 / 3.0) ** 2 * torch.eye(32))
    torch.testing.assert_close(last.T @ last, torch.eye(32))


def test_flat_parameters_round_trip():
    network = MLP((3, 4, 2), NetworkSettings(), torch.Generator().manual_seed(0))
    parameters = list(network.parameters())
    flat = flat_parameters(parameters)
    set_flat_parameters(parameters, 2.0 * flat)
    assert torch.equal(flat_parameters(parameters), 2.0 * flat)
    assert flat.shape == (3 * 4 + 4 + 4 * 2 + 2,)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_what_sees_nothing_has_outputs_that_are_the_same_for_all():
    network = MLP((0, 4, 2), NetworkSettings(), torch.Generator().manual_seed(0))
    assert network(torch.zeros(3, 0)).tolist() == [[0.0, 0.0]] * 3


@pytest.mark.parametrize("size", [3, 18, 64])
def test_layer_normalisation_and_its_derivative_are_torchs(size):
    inputs = torch.randn(9, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    function = HiddenFunction(ACTIVATIONS["relu"], normalize=True)
    expected = torch.nn.functional.layer_norm(torch.relu(inputs), (size,))
    assert torch.equal(function(inputs), expected)
    outputs, slope = function.linearize(inputs.detach().clone())
    assert torch.equal(outputs, expected)
    cotangent = torch.randn(9, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((expected * cotangent).sum(), inputs)
    torch.testing.assert_close(slope.vjp(cotangent), gradient, rtol=1e-11, atol=1e-12)
