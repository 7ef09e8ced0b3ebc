"Lookup and attention against PyTorch's own samples of both, on random shapes, and in the place of `torch.nn.MultiheadAttention`"
from collections import Counter
import pytest, torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch.testing._internal.common_methods_invocations import op_db        # private; the checks pin torch. Without it this fails
from course_backprop import attention as lesson
from course_backprop.module import Lin

F64 = torch.float64
INFOS = {o.name: o for o in op_db if not o.variant_test_name}
def agree(got, want): torch.testing.assert_close(got, want.detach(), rtol=1e-10, atol=1e-10)
def randn(*shape, seed=0): return torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(seed))
def poisoned(*tensors):
    for t in tensors: t.g = torch.full_like(t, float('nan'))

# PyTorch's own samples

def lookup(sample):
    if sample.kwargs: return f'{next(iter(sample.kwargs))} is not asked for'
    w, idx = sample.input.detach().clone(), sample.args[0]
    want = F.embedding(idx, sample.input) if idx.ndim else sample.input[idx]
    out = lesson.embedding(idx, w)
    agree(out, want)
    out.g = randn(*out.shape)
    poisoned(w)
    lesson.embedding_grad(idx, out, w)
    agree(w.g, torch.autograd.grad(want, sample.input, out.g)[0])

def three(sample): # whole and, where there is no other mask than the causal one, in slices
    if sample.kwargs['dropout_p']: return 'dropout is not asked for'
    leaves, causal = (sample.input, *sample.args), sample.kwargs['is_causal']
    q, k, v = (t.detach().clone() for t in leaves)
    mask = sample.kwargs.get('attn_mask')
    if causal: mask = lesson.causal_mask(q.shape[-2], k.shape[-2])
    try: out = lesson.attention(q, k, v, mask)
    except (TypeError, ValueError) as e: return str(e).partition(',')[0].partition(' (')[0]
    want = F.scaled_dot_product_attention(*leaves, attn_mask=mask)
    agree(out, want)
    out.g = randn(*out.shape)
    truth = torch.autograd.grad(want, leaves, out.g)
    poisoned(q, k, v)
    lesson.attention_grad(q, k, v, out, mask)
    for t, g in zip((q, k, v), truth): agree(t.g, g)
    sliced, lse = lesson.sliced_attention(q, k, v, 4, causal)
    agree(sliced, want)
    sliced.g = out.g
    poisoned(q, k, v)
    lesson.sliced_attention_grad(q, k, v, sliced, lse, 4, causal)
    for t, g in zip((q, k, v), truth): agree(t.g, g)

SAMPLES = {'nn.functional.embedding': lookup, 'nn.functional.scaled_dot_product_attention': three}
def count(name): return Counter(SAMPLES[name](sample) or 'right' for sample in INFOS[name].sample_inputs('cpu', F64, requires_grad=True))

REFUSED = { # what isn't computed, and why
    'dropout is not asked for': 12,
    'attention needs q': 4,             # its samples would broadcast
    'a mask is a tensor of True': 1}    # a mask of numbers, to be added

def test_peers_samples():
    found = count('nn.functional.embedding') + count('nn.functional.scaled_dot_product_attention')
    right = found.pop('right')
    print(f'{right + found.total()} samples of PyTorch: {right} right, {found.total()} refused: {dict(found)}')
    assert found == REFUSED and right >= 11

def last_stays(idx, out, w):
    w.g = torch.zeros_like(w)
    w.g[idx] += out.g

def without_D(q, k, v, out, *more):
    p = lesson.attention_weights(q, k, next((o for o in more if torch.is_tensor(o) and o.dtype == torch.bool), None))
    s_g = p*(out.g @ v.mT)/q.shape[-1]**.5
    q.g, k.g, v.g = s_g @ k, s_g.mT @ q, p.mT @ out.g

right = lesson.attention_grad
def twice(q, k, v, out, *more):
    right(q, k, v, out, *more)
    k.g = 2*k.g

@pytest.mark.parametrize('name, wrong', [('embedding_grad', last_stays), ('attention_grad', without_D), ('attention_grad', twice), ('sliced_attention_grad', without_D),
                                         ('causal_mask', lambda T, S=None: torch.ones(T, S or T, dtype=torch.bool)), ('attention_weights', lambda q, k, mask=None: (q @ k.mT).softmax(-1))])
def test_a_wrong_one_is_seen(monkeypatch, name, wrong):
    monkeypatch.setattr(lesson, name, wrong)
    with pytest.raises(AssertionError):
        for op in SAMPLES: count(op)

# Random shapes

sizes = st.integers(1, 5)

@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.lists(sizes, max_size=2), sizes, sizes, sizes, sizes, st.integers(1, 7), st.booleans(), st.sampled_from([.1, 1., 30.]), st.integers(0, 99))
def test_attention_on_random_shapes(lead, T, S, d, e, size, causal, far, seed):
    q, k, v, g = (randn(*lead, *shape, seed=seed + i) for i, shape in enumerate(((T, d), (S, d), (S, e), (T, e))))
    q, mask = far*q, lesson.causal_mask(T, S) if causal else None
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    want = F.scaled_dot_product_attention(*leaves, attn_mask=mask)
    truth = torch.autograd.grad(want, leaves, g)
    def judged(out, gradient, *more):
        agree(out, want)
        out.g = g
        poisoned(q, k, v)
        gradient(q, k, v, out, *more)
        for t, true in zip((q, k, v), truth): torch.testing.assert_close(t.g, true, rtol=1e-9, atol=1e-9*far)
    judged(lesson.attention(q, k, v, mask), lesson.attention_grad, mask)
    out, lse = lesson.sliced_attention(q, k, v, size, causal)
    judged(out, lesson.sliced_attention_grad, lse, size, causal)

@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.lists(sizes, min_size=1, max_size=3), st.integers(1, 9), sizes, st.integers(0, 99))
def test_lookup_on_random_shapes(shape, v, d, seed):
    w, idx = randn(v, d, seed=seed), torch.randint(0, v, shape, generator=torch.Generator().manual_seed(seed))
    out, leaf = lesson.embedding(idx, w), w.clone().requires_grad_()
    out.g = randn(*shape, d, seed=seed + 1)
    poisoned(w)
    lesson.embedding_grad(idx, out, w)
    agree(w.g, torch.autograd.grad(F.embedding(idx, leaf), leaf, out.g)[0])

@pytest.mark.parametrize('n, T, c, heads, causal', [(1, 1, 2, 1, False), (3, 5, 6, 2, True), (2, 4, 12, 4, False), (2, 7, 6, 6, True)])
def test_heads_as_multihead_attention(n, T, c, heads, causal):
    theirs, x = torch.nn.MultiheadAttention(c, heads, batch_first=True, dtype=F64), randn(n*T, c)
    mask = lesson.causal_mask(T) if causal else None
    first, last = ((m.detach().t().clone(), b.detach().clone()) for m, b in ((theirs.in_proj_weight, theirs.in_proj_bias), (theirs.out_proj.weight, theirs.out_proj.bias)))
    ours = [Lin(*first), lesson.Heads(T, heads, mask), Lin(*last)]
    leaf = x.clone().requires_grad_()
    want = theirs(*[leaf.view(n, T, c)]*3, attn_mask=None if mask is None else ~mask, need_weights=False)[0].reshape(n*T, c)
    out = x
    for layer in ours: out = layer(out)
    agree(out, want)
    out.g = randn(n*T, c, seed=1)
    for layer in reversed(ours): layer.backward()
    truth = torch.autograd.grad(want, (leaf, *theirs.parameters()), out.g)
    for got, true in zip((x.g, first[0].g.t(), first[1].g, last[0].g.t(), last[1].g), truth): agree(got, true)

def test_memory_grows_with_T():
    from course_backprop.tools.run import Memory
    def held(T):
        q, k, v, g = (randn(T, 8, seed=i) for i in range(4))
        with Memory(dict(q=q, k=k, v=v, g=g)) as memory:
            out, lse = lesson.sliced_attention(q, k, v, 16)
            out.g = g
            lesson.sliced_attention_grad(q, k, v, out, lse, 16)
        return memory.peak/T
    assert held(1024) < 1.1*held(256)
