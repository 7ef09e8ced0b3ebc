"Convolution and pooling against PyTorch's own samples of both, and on random shapes"
from collections import Counter
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings, strategies as st
from torch.testing._internal.common_methods_invocations import op_db        # private; the checks pin torch. Without it this fails
from course_backprop import conv
from course_backprop.conv import conv2d, conv2d_grad, fold, max_pool2d, max_pool2d_grad, places, unfold

F64 = torch.float64

def convolution(x, w, b=None, stride=1, padding=0, dilation=1, groups=1): # arguments of PyTorch's; to ours: function, its gradient, tensors, the rest. A string: why not
    for name, value in dict(dilation=dilation, groups=groups).items():
        if {*(value if isinstance(value, tuple) else [value])} != {1}: return f'{name} other than 1'
    return conv2d, conv2d_grad, (x, w, torch.zeros(len(w), dtype=F64) if b is None else b), (stride, padding)

def pooling(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    if ceil_mode: return 'ceil_mode'
    for name, value, plain in (('padding', padding, 0), ('dilation', dilation, 1)):
        if {*(value if isinstance(value, (tuple, list)) else [value])} != {plain}: return f'{name} other than {plain}'
    if isinstance(stride, (tuple, list)) and not stride: stride = None
    return max_pool2d, max_pool2d_grad, (x,), (kernel_size, stride)

OPS = {'nn.functional.conv2d': convolution, 'nn.functional.max_pool2d': pooling}

def one(info, ours, sample): # to the reason why it isn't computed; None if it is right
    how = ours(sample.input, *sample.args, **sample.kwargs)
    if isinstance(how, str): return how
    f, gradient, given, more = how
    mine = [t.detach().clone(memory_format=torch.preserve_format) for t in given]
    try: out = f(*mine, *more)
    except (TypeError, ValueError) as e: return str(e).partition(' (')[0].partition(' from')[0]
    want = info.op(sample.input, *sample.args, **sample.kwargs)
    want = want[0] if isinstance(want, tuple) else want
    torch.testing.assert_close(out, want.detach(), rtol=1e-10, atol=1e-10)
    up = torch.randn(want.shape, dtype=F64, generator=torch.Generator().manual_seed(0))
    asked = [k for k, t in enumerate(given) if t.requires_grad]
    truth = torch.autograd.grad(want, [given[k] for k in asked], up)
    for t in mine: t.g = torch.full_like(t, float('nan'))
    out.g = up
    gradient(mine[0], out, *mine[1:], *more)
    for k, t in zip(asked, truth): torch.testing.assert_close(mine[k].g, t, rtol=1e-10, atol=1e-10)

def survey(ops=tuple(OPS)):
    "A count of what became of all samples: 'right', why it isn't computed, or WRONG with what is wrong"
    infos, count = {o.name: o for o in op_db if not o.variant_test_name}, Counter()
    for name in ops:
        for sample in infos[name].sample_inputs('cpu', F64, requires_grad=True):
            try: why = one(infos[name], OPS[name], sample)
            except Exception as e: why = f'WRONG {type(e).__name__} {str(e)[:300]} :: {sample}'[:600]
            count[why or 'right'] += 1
    return count

RIGHT, NOT_COMPUTED = 99, { # what isn't computed, and why
    'dilation other than 1': 130, 'groups other than 1': 12, 'ceil_mode': 720, 'padding other than 0': 480,       # none of them is in the lesson
    'the padding is a whole number': 1,         # 'same' or 'valid'
    'a convolution needs x': 4, 'images are': 24}           # a single image, without a batch

def test_peers_samples():
    found = survey()
    right = found.pop('right')
    print(f'{right + found.total()} samples of PyTorch: {right} right, {found.total()} not computed: {dict(found)}')
    assert found == NOT_COMPUTED and right >= RIGHT

def test_a_wrong_rule_is_seen(monkeypatch):
    def shifted(cols, shape, size, stride=1, padding=0): return fold(cols.roll(1, 2), shape, size, stride, padding)
    def last(cols, *how): return fold(cols, *how).flip(3)
    for wrong in (shifted, last):
        monkeypatch.setattr(conv, 'fold', wrong)
        for op in OPS: assert any(why.startswith('WRONG') for why in survey([op])), (wrong, op)

sizes, steps = st.integers(1, 6), st.integers(1, 3)

@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.tuples(*[st.integers(1, 3)]*3), st.tuples(sizes, sizes), st.tuples(sizes, sizes), st.tuples(steps, steps), st.tuples(*[st.integers(0, 4)]*2), st.integers(0, 99))
def test_convolution_on_random_shapes(noc, image, window, stride, padding, seed):
    assume(all(k <= n + 2*p for n, k, p in zip(image, window, padding)))
    generator, (n, o, c) = torch.Generator().manual_seed(seed), noc
    def randn(*shape): return torch.randn(shape, generator=generator, dtype=F64)
    args = randn(n, c, *image), randn(o, c, *window), randn(o)
    g = randn(n, o, *places(args[0].shape, window, stride, padding)[3])
    for conv.BUFFER in (1, 2**19):              # one image at a time, and all at once
        agree(conv2d, conv2d_grad, args, g, (stride, padding), lambda *args: F.conv2d(*args, stride, padding))
    x = args[0]
    cols = unfold(x, window, stride, padding)
    y = randn(*cols.shape)
    torch.testing.assert_close((cols*y).sum(), (x*fold(y, x.shape, window, stride, padding)).sum(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(cols, F.unfold(x, window, stride=stride, padding=padding), rtol=0, atol=0)

@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.tuples(*[st.integers(1, 3)]*2), st.tuples(sizes, sizes), st.tuples(sizes, sizes), st.one_of(st.none(), st.tuples(*[st.integers(1, 4)]*2)), st.booleans(), st.integers(0, 99))
def test_pooling_on_random_shapes(nc, image, window, stride, ties, seed):
    assume(all(k <= n for n, k in zip(image, window)))
    generator = torch.Generator().manual_seed(seed)
    def randn(*shape): return torch.randn(shape, generator=generator, dtype=F64)
    x = randn(*nc, *image)
    if ties: x = x.round()
    agree(max_pool2d, max_pool2d_grad, (x,), randn(*nc, *places(x.shape, window, stride or window)[3]), (window, stride), lambda x: F.max_pool2d(x, window, stride))

def agree(f, gradient, args, g, more, theirs):
    out, leaves = f(*args, *more), [t.clone().requires_grad_() for t in args]
    want = theirs(*leaves)
    torch.testing.assert_close(out, want.detach(), rtol=1e-10, atol=1e-10)
    out.g = g
    gradient(args[0], out, *args[1:], *more)
    for t, truth in zip(args, torch.autograd.grad(want, leaves, g)): torch.testing.assert_close(t.g, truth, rtol=1e-9, atol=1e-10)
