"""What head, body and tail compute: shapes, gradient paths, grids, options."""

import pytest
import torch
from torch.nn import functional as F

from tavit_flwr.errors import ModelError
from tavit_flwr.models import build_parts
from tavit_flwr.models.blocks import GatedAttention, LinearAttention, sinusoidal_embedding


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def batch(size=2, height=32, width=32):
    return torch.rand(size, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def lively(**overrides):
    """Parts whose zero-initialised tensors are not zero, so that every path carries something."""
    parts = build_parts("tiny", **overrides)
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in (parts.head, parts.tail):
            for name, parameter in part.named_parameters():
                if name.endswith(".g") or name.startswith("final_conv.1"):
                    parameter.uniform_(0.2, 0.6, generator=draws)
    return parts


def run(parts, x):
    smashed, local = parts.head(x)
    return parts.tail(parts.body(smashed), local, x)


def parameters(parts):
    return [p for part in (parts.head, parts.body, parts.tail) for p in part.parameters()]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 48), (32, 48), (20, 4)])
def test_shapes_for_square_and_other_grids(height, width):
    parts = build_parts("tiny")
    x = batch(3, height, width)
    smashed, local = parts.head(x)
    assert smashed.shape == (3, 32, height // 4, width // 4)
    assert [tuple(t.shape[1:]) for t in local] == [
        (8, height, width),
        (16, height // 2, width // 2),
        (32, height // 4, width // 4),
        (8,),
    ]
    assert parts.body(smashed).shape == smashed.shape
    assert run(parts, x).shape == x.shape


def test_residual_presets_start_at_their_input_exactly():
    parts, x = build_parts("tiny"), batch()
    assert torch.equal(run(parts, x), x)


def test_without_the_residual_the_output_is_a_tanh_and_ignores_the_degraded_batch():
    parts, x = lively(global_residual=False), batch()
    smashed, local = parts.head(x)
    first, second = (parts.tail(smashed * 50, local, degraded) for degraded in (x, torch.zeros_like(x)))
    assert torch.equal(first, second)
    assert first.abs().max() <= 1


def test_finest_skip_is_among_the_locals_only_where_the_tail_uses_it():
    x = batch()
    with_skip, without = lively(), lively(use_finest_skip=False)
    assert len(with_skip.head(x).local) == 4
    assert [tuple(t.shape[1:]) for t in without.head(x).local] == [(16, 16, 16), (32, 8, 8), (8,)]
    smashed, local = with_skip.head(x)
    changed = (local[0] + 1, *local[1:])
    assert not torch.equal(with_skip.tail(smashed, local, x), with_skip.tail(smashed, changed, x))


@pytest.mark.parametrize("use_finest_skip", [True, False])
def test_every_local_tensor_and_the_smashed_one_carry_gradient_to_the_head(use_finest_skip):
    parts, x = lively(use_finest_skip=use_finest_skip), batch()
    smashed, local = parts.head(x)
    leaves = [t.detach().requires_grad_() for t in (smashed, *local)]
    loss = parts.tail(parts.body(leaves[0]), leaves[1:], x).square().mean()
    grads = torch.autograd.grad(loss, leaves)
    assert all(grad.abs().sum() > 0 for grad in grads)
    for tensor, grad in zip((smashed, *local), grads, strict=True):
        (at_mlp,) = torch.autograd.grad(tensor, parts.head.mlp[0].weight, grad, retain_graph=True)
        assert at_mlp.abs().sum() > 0


def test_gradients_through_the_cut_equal_those_of_one_graph_bit_for_bit():
    parts, x = lively(), batch(4)
    parts.body.eval()
    run(parts, x).square().mean().backward()
    whole = [p.grad for p in parameters(parts)]
    for parameter in parameters(parts):
        parameter.grad = None
    smashed, local = parts.head(x)
    cut, *inner = [t.detach().clone().requires_grad_() for t in (smashed, *local)]
    body_out = parts.body(cut)
    features = body_out.detach().clone().requires_grad_()
    parts.tail(features, inner, x).square().mean().backward()
    body_out.backward(features.grad.clone())
    torch.autograd.backward([smashed, *local], [cut.grad.clone(), *(t.grad for t in inner)])
    assert all(torch.equal(a, p.grad) for a, p in zip(whole, parameters(parts), strict=True))


@pytest.mark.parametrize("training", [True, False])
def test_a_frozen_body_passes_the_right_gradient_to_its_input(training):
    parts = lively(body_dropout=0.0)
    body = parts.body.double().train(training).requires_grad_(False)
    x = torch.rand(2, 32, 2, 3, dtype=torch.double, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(body, x)
    assert all(p.grad is None for p in body.parameters())


def test_the_body_computes_the_same_bits_with_and_without_gradients():
    body = build_parts("tiny").body.eval()
    x = torch.rand(2, 32, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        without = body(x)
    assert torch.equal(without, body(x))
    assert without.is_contiguous()


def test_dropout_acts_in_train_mode_only():
    body = build_parts("tiny", body_dropout=0.5).body
    x = torch.rand(2, 32, 8, 8)
    assert not torch.equal(body(x), body(x))
    body.eval()
    assert torch.equal(body(x), body(x))


def test_body_treats_samples_apart_and_keeps_cells_in_place():
    body = build_parts("tiny").body.eval()
    x = torch.rand(2, 32, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(body(x)[1:], body(x[1:]))
    with torch.no_grad():
        body.pos_embedding.zero_()
    torch.testing.assert_close(body(x.flip(2)), body(x).flip(2))
    torch.testing.assert_close(body(x.transpose(2, 3)), body(x).transpose(2, 3))


def test_positions_are_the_parameter_itself_or_its_bicubic_interpolation():
    body = build_parts("tiny").body
    assert body.positions(8, 8) is body.pos_embedding
    square = body.pos_embedding.detach().reshape(8, 8, 32).permute(2, 0, 1)[None]
    wanted = F.interpolate(square, (4, 12), mode="bicubic", align_corners=False)[0].permute(1, 2, 0)
    torch.testing.assert_close(body.positions(4, 12), wanted.reshape(48, 1, 32))


def test_time_step_changes_the_head_and_is_the_same_for_every_sample():
    x = batch(1).expand(2, -1, -1, -1)
    at_0, at_7 = (build_parts("tiny", time_step=t).head(x) for t in (0, 7))
    assert not torch.allclose(at_0.smashed, at_7.smashed)
    torch.testing.assert_close(at_7.smashed[0], at_7.smashed[1])
    assert torch.equal(at_7.local[-1][0], at_7.local[-1][1])


def test_sinusoidal_embedding_has_sines_first():
    row = sinusoidal_embedding(3, 2, 4, torch.zeros(1, dtype=torch.double))
    angles = torch.tensor([3.0, 3e-4], dtype=torch.double)
    torch.testing.assert_close(row, torch.cat((angles.sin(), angles.cos())).expand(2, 4))


def test_linear_attention_against_loops():
    attention = LinearAttention(6, heads=2, head_dim=3).double()
    x = torch.rand(1, 6, 2, 3, dtype=torch.double)
    query, key, value = attention.to_qkv(x).reshape(3, 2, 3, 6)
    out = torch.zeros(2, 3, 6, dtype=torch.double)
    for head in range(2):
        share = key[head].exp() / key[head].exp().sum(1, keepdim=True)
        for d in range(3):
            for n in range(6):
                out[head, :, n] += query[head, d, n] * (share[d] * value[head]).sum(1)
    torch.testing.assert_close(attention(x), attention.to_out(out.reshape(1, 6, 2, 3)))


def test_a_closed_gate_is_the_identity():
    parts, x = build_parts("tiny"), torch.rand(1, 8, 4, 4)
    gate = parts.head.downs[0][2]
    assert isinstance(gate, GatedAttention)
    assert torch.equal(gate(x), x)


@pytest.mark.parametrize("shape", [(1, 3, 30, 32), (1, 3, 32, 30), (1, 1, 32, 32), (3, 32, 32), (0, 3, 32, 32)])
def test_head_refuses_a_wrong_batch(shape):
    with pytest.raises(ModelError, match="multiples of 4"):
        build_parts("tiny").head(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(1, 31, 8, 8), (32, 8, 8), (0, 32, 8, 8)])
def test_body_refuses_wrong_activations(shape):
    with pytest.raises(ModelError, match="body"):
        build_parts("tiny").body(torch.zeros(shape))


def test_tail_refuses_what_does_not_fit():
    parts, x = build_parts("tiny"), batch()
    smashed, local = parts.head(x)
    for features, inner, degraded in [
        (smashed[:1], local, x),
        (smashed[:, :, :1], local, x),
        (smashed, local[1:], x),
        (smashed, local[::-1], x),
        (smashed, local, x[:1]),
        (smashed, local, x[:, :1]),
        (smashed, local, x[0]),
    ]:
        with pytest.raises(ModelError, match="tail"):
            parts.tail(features, inner, degraded)
