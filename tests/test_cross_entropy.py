"Cross-entropy against PyTorch's own samples: values, hand-written gradients, and those of lesson 11's engine on the same formula"
from collections import Counter
import pytest, torch
import torch.nn.functional as F
from torch.testing._internal.common_methods_invocations import op_db        # private; the checks pin torch. Without it this fails
from course_backprop import cross_entropy as lesson
from course_backprop.engine import Var, backward

INFOS = {o.name: o for o in op_db if not o.variant_test_name}
def samples(name): return list(INFOS[name].sample_inputs('cpu', torch.float64, requires_grad=True))
def agree(got, want): torch.testing.assert_close(got, want.detach(), rtol=1e-10, atol=1e-10)
def count(name, one): # function of a sample that returns why it was refused, or None; raises where something is wrong
    return Counter(one(sample) or 'right' for sample in samples(name))

# Softmax and its logarithm, along any dimension

def along(f, x, dim): return f(x.movedim(dim, -1)).movedim(-1, dim) if x.ndim else f(x)
def graph(f): # the same formula on a `Var`
    def on_var(u):
        u = u - u.amax(-1, keepdim=True)
        log = u - u.exp().sum(-1, keepdim=True).log()
        return log if f is lesson.log_softmax else log.exp()
    return on_var

def check_softmax(f, theirs):
    def one(sample):
        x, dim = sample.input.detach(), sample.args[0]
        if not x.numel():
            with pytest.raises(IndexError): along(f, x, dim)
            return 'nothing in it'
        leaf = x.clone().requires_grad_()
        want = theirs(leaf, dim)
        agree(along(f, x, dim), want)
        if not x.ndim: return None
        x = x.movedim(dim, -1).contiguous()
        up = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
        backward(graph(f)(Var(x)), up)
        agree(x.g.movedim(-1, dim), torch.autograd.grad(want, leaf, up.movedim(-1, dim))[0])
    return one

@pytest.mark.parametrize('name, f, theirs', [('softmax', lesson.softmax, torch.softmax), ('log_softmax', lesson.log_softmax, torch.log_softmax)])
def test_softmax(name, f, theirs):
    assert count(name, check_softmax(f, theirs)) == {'right': 6, 'nothing in it': 1}

# The loss and its gradient. More dimensions are more samples; a sum is n times a mean

def rows(t): return t.movedim(1, -1).reshape(-1, t.shape[1])
def proper(probs): return probs/probs.sum(1, keepdim=True)

def check_loss(sample):
    u, targ, more = sample.input.detach(), sample.args[0].detach(), dict(sample.kwargs)
    reduction = more.pop('reduction', 'mean')
    if reduction == 'none': return 'one loss for each sample'
    if more: return f'{next(iter(more))} is not asked for'
    targ = proper(targ.clamp(min=0)) if targ.is_floating_point() else targ       # theirs are any numbers
    flat, flat_targ = rows(u), rows(targ) if targ.is_floating_point() else targ.reshape(-1)
    leaf, times = u.clone().requires_grad_(), len(flat) if reduction == 'sum' else 1
    want = F.cross_entropy(leaf, targ, reduction=reduction)
    agree(times*lesson.cross_entropy(flat, flat_targ), want)
    lesson.cross_entropy_grad(flat, flat_targ)
    agree(times*flat.g, rows(torch.autograd.grad(want, leaf)[0]))

REFUSED = {'one loss for each sample': 4, 'weight is not asked for': 4, 'ignore_index is not asked for': 1}

def test_loss():
    found = count('nn.functional.cross_entropy', check_loss)
    print(dict(found))
    right = found.pop('right')
    assert found == REFUSED and right >= 12

def test_theirs_as_they_are():
    "Any numbers as targets are refused, where the sum of a row isn't 1"
    bad = [s for s in samples('nn.functional.cross_entropy') if s.args[0].is_floating_point() and s.input.ndim == 2]
    for s in bad:
        with pytest.raises(ValueError, match='probabilities are 0 or more, and 1 in sum'): lesson.cross_entropy(s.input.detach(), s.args[0].detach())
    assert len(bad) >= 4

# A wrong one is seen

def no_max_per_row(u): return u - u.exp().sum().log()

WRONG = {'cross_entropy_grad': [lambda u, y: setattr(u, 'g', u.softmax(1)/len(u)), lambda u, y: setattr(u, 'g', u.softmax(1) - (y if y.ndim > 1 else F.one_hot(y, u.shape[1])))],
         'cross_entropy': [lambda u, y: u.logsumexp(1).mean(), lambda u, y: F.cross_entropy(u, y, reduction='sum')]}

@pytest.mark.parametrize('name, f', [(name, f) for name, fs in WRONG.items() for f in fs])
def test_a_wrong_one_is_seen(monkeypatch, name, f):
    monkeypatch.setattr(lesson, name, f)
    with pytest.raises(AssertionError): test_loss()

@pytest.mark.parametrize('f', [no_max_per_row, lambda u: u.log_softmax(0)])
def test_a_wrong_softmax_is_seen(f):
    with pytest.raises(AssertionError): count('log_softmax', check_softmax(f, torch.log_softmax))
