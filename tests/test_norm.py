"Layer norm and batch norm against PyTorch's own samples of both, and on random shapes"
from collections import Counter
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch.testing._internal.common_methods_invocations import op_db        # private; the checks pin torch. Without it this fails
from course_backprop import norm
from course_backprop.norm import BatchNorm, batch_norm, batch_norm_grad, layer_norm, layer_norm_grad, set_training

F64 = torch.float64

def layer(x, shape, weight=None, bias=None, eps=1e-5): # arguments of PyTorch's; to ours: function, its gradient, what both take
    if weight is not None and weight.shape != torch.Size(shape): raise AssertionError('a sample of a kind that is new')
    return layer_norm, layer_norm_grad, x, given_or(weight, torch.ones, shape), given_or(bias, torch.zeros, shape), (eps,)

def batch(x, mean=None, var=None, weight=None, bias=None, training=False, momentum=.1, eps=1e-5):
    c = x.shape[1:2] or (1,)
    stats = None if training else tuple(o.detach() for o in (mean, var)) if mean is not None else (torch.zeros(c, dtype=F64), torch.ones(c, dtype=F64))
    return batch_norm, batch_norm_grad, x, given_or(weight, torch.ones, c), given_or(bias, torch.zeros, c), (eps, stats)

def given_or(t, make, shape): return make(shape, dtype=F64) if t is None else t.detach().clone()

OPS = {'nn.functional.layer_norm': layer, 'native_layer_norm': layer, 'nn.functional.batch_norm': batch, 'nn.functional.batch_norm/without_cudnn': batch}

def one(info, ours, sample): # to the reason why it was refused; None if it is right
    f, gradient, x, gamma, beta, more = ours(sample.input, *sample.args, **sample.kwargs)
    x = x.detach().clone(memory_format=torch.preserve_format)
    try: out = f(x, gamma, beta, *more)
    except (TypeError, ValueError) as e: return str(e).partition(':')[0].partition(', not')[0]
    want = info.op(sample.input, *sample.args, **sample.kwargs)
    want = want[0] if isinstance(want, tuple) else want
    torch.testing.assert_close(out, want.detach(), rtol=1e-10, atol=1e-10)
    up = torch.randn(want.shape, dtype=F64, generator=torch.Generator().manual_seed(0))
    parameters = sample.args[1:3] if ours is layer else sample.args[2:4]
    leaves = {name: t for name, t in zip(('x', 'gamma', 'beta'), (sample.input, *parameters)) if t is not None and t.requires_grad}
    truth = dict(zip(leaves, torch.autograd.grad(want, leaves.values(), up)))
    for t in (x, gamma, beta): t.g = torch.full_like(t, float('nan'))
    out.g = up
    gradient(x, out, gamma, beta, *more)
    for name, t in truth.items(): torch.testing.assert_close(dict(x=x, gamma=gamma, beta=beta)[name].g, t, rtol=1e-10, atol=1e-10)

def survey(ops=tuple(OPS)):
    "A count of what became of all samples: 'right', why it was refused, or WRONG with what is wrong"
    infos, count = {f'{o.name}/{o.variant_test_name}'.rstrip('/'): o for o in op_db}, Counter()
    for name in ops:
        for sample in infos[name].sample_inputs('cpu', F64, requires_grad=True):
            try: why = one(infos[name], OPS[name], sample)
            except Exception as e: why = f'WRONG {type(e).__name__} {str(e)[:300]} :: {sample}'[:600]
            count[why or 'right'] += 1
    return count

REFUSED = { # what isn't computed, and why
    '`eps` must be above 0': 5,     # −0.5: a variance plus that may be negative
    'nothing to normalise': 9}      # no samples, or no columns

def test_peers_samples():
    found = survey()
    right = found.pop('right')
    print(f'{right + found.total()} samples of PyTorch: {right} right, {found.total()} refused: {dict(found)}')
    assert found == REFUSED and right >= 36

def test_a_wrong_rule_is_seen(monkeypatch):
    wrong = {'constants': lambda g, h, r, mean, along: g*r, 'no mean': lambda g, h, r, mean, along: r*(g - h*along), 'added': lambda g, h, r, mean, along: r*(g - mean + h*along)}
    for name, rule in wrong.items():
        monkeypatch.setattr(norm, 'projected', rule)
        for op in OPS: assert any(why.startswith('WRONG') for why in survey([op])), (name, op)

sizes = st.integers(1, 6)

@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.lists(sizes, min_size=1, max_size=4), st.integers(1, 4), st.sampled_from([1e-3, .5]), st.integers(0, 99))
def test_layer_norm_on_random_shapes(shape, last, eps, seed):
    generator = torch.Generator().manual_seed(seed)
    def randn(*shape): return torch.randn(shape, generator=generator, dtype=F64)
    x, g = 3*randn(*shape) + 2, randn(*shape)
    gamma, beta = (randn(*shape[-min(last, len(shape)):]) for _ in range(2))
    agree(layer_norm, layer_norm_grad, (x, gamma, beta), g, eps, lambda x, w, b: F.layer_norm(x, w.shape, w, b, eps))

@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.integers(2, 6), st.lists(sizes, min_size=1, max_size=3), st.sampled_from([1e-3, .5]), st.integers(0, 99))
def test_batch_norm_on_random_shapes(n, rest, eps, seed):
    generator = torch.Generator().manual_seed(seed)
    def randn(*shape): return torch.randn(shape, generator=generator, dtype=F64)
    x, g = 3*randn(n, *rest) + 2, randn(n, *rest)
    gamma, beta = randn(rest[0]), randn(rest[0])
    agree(batch_norm, batch_norm_grad, (x, gamma, beta), g, eps, lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True, eps=eps))

def agree(f, gradient, args, g, eps, theirs):
    out, leaves = f(*args, eps), [t.clone().requires_grad_() for t in args]
    want = theirs(*leaves)
    torch.testing.assert_close(out, want.detach(), rtol=1e-10, atol=1e-10)
    out.g = g
    gradient(args[0], out, *args[1:], eps)
    for t, truth in zip(args, torch.autograd.grad(want, leaves, g)): torch.testing.assert_close(t.g, truth, rtol=1e-9, atol=1e-10)

def test_images_in_training_and_use():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = BatchNorm(torch.ones(3, dtype=F64), torch.zeros(3, dtype=F64)), torch.nn.BatchNorm2d(3, dtype=F64)
    for k in range(6):
        x = 2*torch.randn(2 + k, 3, 4, 5, generator=generator, dtype=F64) + k
        set_training(ours, k % 3 != 2)
        theirs.train(k % 3 != 2)
        torch.testing.assert_close(ours(x), theirs(x).detach(), rtol=1e-10, atol=1e-10)
        for a, b in zip(ours.running, (theirs.running_mean, theirs.running_var)): torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
