"Real processes: the same training on one and on two, across two network namespaces, after a restart; and with each fault an error that says which rank, in time, and no process left"
import os, re, shutil, signal, socket, subprocess, sys, time
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4
import pytest, torch
from course_backprop import parallel
from course_backprop.parallel import save, spawn

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='looks for processes in /proc')
few = '--epochs 3 --images 3000 --batch 100 --hidden 20'.split()         # of `python -m course_backprop.parallel`
limit = 30                                                           # seconds until a fault has ended all

def left(mark): # to the numbers of the processes, but for this one, that have it in their environment
    found = []
    for o in Path('/proc').glob('[0-9]*'):
        try:
            if mark.encode() in (o/'environ').read_bytes() and int(o.name) != os.getpid(): found.append(int(o.name))
        except OSError: pass                                         # it has ended meanwhile, or is a zombie
    return found

@pytest.fixture
def mark(monkeypatch):
    "Stands in the environment of all that a test starts; at its end none of that runs"
    name = uuid4().hex
    monkeypatch.setenv('BACKPROP_TEST', name)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    yield name
    until = time.monotonic() + 5
    while left(name) and time.monotonic() < until: time.sleep(.1)
    still = left(name)
    for pid in still: os.kill(pid, signal.SIGKILL)
    assert not still, f'{len(still)} processes are left'

def start(*words, before=(), **env):
    return subprocess.Popen([*before, sys.executable, '-m', *map(str, words)], env={**os.environ, **env}, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def torchrun(p, *more, path, options=few, **kw): # processes; options of torchrun; of the file for the state; of the training
    ends = ['--master-addr', '127.0.0.1', '--master-port', free_port()] if '--master-addr' not in more else []
    return start('torch.distributed.run', '--nproc-per-node', p, *ends, *more, '-m', 'course_backprop.parallel', *options, '--path', path, **kw)

def ended(*started, status=0, within=120): # processes; to what they have said
    said = [o.communicate(timeout=within)[0] for o in started]
    assert all((o.returncode == 0) == (status == 0) for o in started), '\n'.join(said)
    return said

def state(path): # to a list of tensors
    return torch.load(path, weights_only=True)[1]

def same(a, b, tol): # paths of states
    for x, y in zip(state(a), state(b), strict=True): torch.testing.assert_close(x.nan_to_num(), y.nan_to_num(), rtol=0, atol=tol)

@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    "The state after a training by one process"
    path = tmp_path_factory.mktemp('alone')/'state'
    ended(torchrun(1, path=path))
    return path

def worker(mark, rank, but=()): # to the number of a process that trains as this rank
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for pid in left(mark):
            if pid in but: continue
            try: words, env = ((Path('/proc')/str(pid)/o).read_bytes().split(b'\0') for o in ('cmdline', 'environ'))
            except OSError: continue
            if f'RANK={rank}'.encode() in env and b'course_backprop.parallel' in words and b'torch.distributed.run' not in words: return pid
        time.sleep(.05)
    pytest.fail(f'rank {rank} doesn\'t run')

def read_until(process, text): # of its output; to the lines until then
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line: return lines
    pytest.fail(''.join(lines))

# The same numbers

def test_two_processes(mark, alone, tmp_path):
    said, = ended(torchrun(2, path=tmp_path/'state'))
    assert len(re.findall(r'^epoch \d: loss \d\.\d+, \d\d\.\d\d% of', said, re.M)) == 3
    same(tmp_path/'state', alone, 1e-6)

def missing(why):
    "No namespaces: the checks in .ci/run fail then; on other machines this test is skipped"
    (pytest.fail if os.environ.get('BACKPROP_NAMESPACES') == 'required' else pytest.skip)(why)

@contextmanager
def two_machines():
    "Two network namespaces with an address each, and a cable between them; to pairs of name and address"
    if os.geteuid() or not shutil.which('ip'): missing('two network namespaces need root and `ip`')
    names = [f'backprop{os.getpid()}{o}' for o in 'ab']
    def ip(*words): return subprocess.run(['ip', *words], capture_output=True, text=True)
    try:
        for name in names:
            if (done := ip('netns', 'add', name)).returncode: missing(f'no network namespace can be made: {done.stderr}')
        a, b = names
        steps = [['link', 'add', 'cable', 'netns', a, 'type', 'veth', 'peer', 'name', 'cable', 'netns', b]]
        for k, name in enumerate(names, 1):
            steps += [['-n', name, *o] for o in (['addr', 'add', f'10.77.0.{k}/24', 'dev', 'cable'], ['link', 'set', 'cable', 'up'], ['link', 'set', 'lo', 'up'])]
        for step in steps:
            if (done := ip(*step)).returncode: missing(f'ip {" ".join(step)}: {done.stderr}')
        yield [(a, '10.77.0.1'), (b, '10.77.0.2')]
    finally:
        for name in names: ip('netns', 'delete', name)

def test_two_machines(mark, alone, tmp_path):
    with two_machines() as machines:
        for here, there in (machines, machines[::-1]):               # apart but for the cable: neither has the other's address
            said = subprocess.run(['ip', '-n', here[0], 'addr'], capture_output=True, text=True).stdout
            assert here[1] in said and there[1] not in said
        nodes = [torchrun(1, '--nnodes', 2, '--node-rank', k, '--master-addr', machines[0][1], '--master-port', 29500, path=tmp_path/f'state{k}',
                          before=['ip', 'netns', 'exec', name], GLOO_SOCKET_IFNAME='cable') for k, (name, _) in enumerate(machines)]
        ended(*nodes)
    same(tmp_path/'state0', alone, 1e-6)
    assert not (tmp_path/'state1').exists()                          # rank 0 alone saves

# Faults

def long(epochs): return ['--epochs', epochs, '--images', 3000, '--batch', 100, '--hidden', 20]

def test_killed(mark, tmp_path):
    run = torchrun(2, path=tmp_path/'state', options=long(500))
    read_until(run, 'epoch 2')
    begun = time.monotonic()
    os.kill(worker(mark, 1), signal.SIGKILL)
    said, = ended(run, status=1, within=limit)
    assert time.monotonic() - begun < limit
    assert re.search(r'rank +: 1 ', said) and '-9' in said, said

def test_restart(mark, tmp_path):
    options = long(12)
    ended(torchrun(2, path=tmp_path/'whole', options=options))
    run = torchrun(2, '--max-restarts', 1, path=tmp_path/'state', options=options)
    before = read_until(run, 'epoch 3')
    os.kill(worker(mark, 1), signal.SIGKILL)
    said, = ended(run)
    epochs = [int(o) for o in re.findall(r'^epoch (\d+):', ''.join(before) + said, re.M)]
    assert sorted(set(epochs)) == [*range(1, 13)] and epochs[3:].count(1) == 0, epochs           # it went on, and didn't begin anew
    same(tmp_path/'state', tmp_path/'whole', 0)

def test_wrong_world_size(mark):
    begun = time.monotonic()
    said, = ended(start('course_backprop.parallel', '--timeout', 3, RANK='0', WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free_port())), status=1, within=limit)
    assert time.monotonic() - begun < limit
    assert re.search('^rank 0: .*imed out', said, re.M), said

def test_lonely_machine(mark, tmp_path):
    begun = time.monotonic()
    ended(torchrun(1, '--nnodes', 2, '--node-rank', 0, '--rdzv-conf', 'timeout=3', path=tmp_path/'state'), status=1, within=limit)
    assert time.monotonic() - begun < limit

def test_other_data(mark):
    env = dict(WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free_port()))
    both = [start('course_backprop.parallel', '--images', n, RANK=str(k), **env) for k, n in enumerate((3000, 2000))]
    for k, said in enumerate(ended(*both, status=1, within=limit)): assert f'rank {k}: ValueError: the ranks differ in images: 3000, 2000' in said, said

def test_other_state(mark, alone, tmp_path):
    shutil.copy(alone, tmp_path/'state')
    said, = ended(torchrun(1, path=tmp_path/'state', options=[*few, '--seed', '1']), status=1)
    assert 'is of another training' in said
    same(tmp_path/'state', alone, 0)

def fails(how):
    if dist.get_rank() == 1:
        if how == 'killed': os.kill(os.getpid(), signal.SIGKILL)
        if how == 'slow': time.sleep(60)
        if how == 'raises': raise ValueError('no such thing')
    dist.all_reduce(torch.ones(5 if how == 'sizes' and dist.get_rank() else 1000))
    if how == 'more' and dist.get_rank() == 1: dist.all_reduce(torch.ones(5))

@pytest.mark.parametrize('how, says', [('killed', 'rank 1 of 2: ended with exit code -9'), ('slow', 'rank 1 of 2: the others have waited for it longer than 3 seconds'),
                                       ('raises', 'rank 1 of 2: ValueError: no such thing'), ('sizes', 'expected size'), ('more', 'imed out')])
def test_spawn_names_the_rank(mark, how, says):
    begun = time.monotonic()
    with pytest.raises(RuntimeError, match=re.escape(says)): spawn(fails, 2, how, timeout=3)
    assert time.monotonic() - begun < limit and left(mark) == []

waits = '''
import signal
from pathlib import Path
from course_backprop.parallel import spawn
signal.signal(signal.SIGINT, signal.default_int_handler)         # what a job in the background starts with is to ignore it
def f(): Path(folder, str(dist.get_rank())).touch(); time.sleep(300)
spawn(f, 2)
'''
@pytest.mark.parametrize('sign', [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left(mark, tmp_path, sign):
    "When whoever waits is interrupted, or ended in a way that leaves no time to tidy up"
    (tmp_path/'waits.py').write_text(waits.replace('folder', repr(str(tmp_path))))
    with subprocess.Popen([sys.executable, tmp_path/'waits.py'], stderr=subprocess.DEVNULL) as waiting:
        until = time.monotonic() + 60
        while not ((tmp_path/'0').exists() and (tmp_path/'1').exists()):
            assert time.monotonic() < until
            time.sleep(.05)
        assert len(left(mark)) == 3
        waiting.send_signal(sign)
        waiting.wait(limit)
    until = time.monotonic() + 5
    while left(mark) and time.monotonic() < until: time.sleep(.05)
    assert left(mark) == []

def test_never_half_written(tmp_path, monkeypatch):
    path = tmp_path/'state'
    save(dict(a=torch.ones(3)), path)
    def half(what, f):
        f.write(b'half')
        raise OSError('no space left')
    monkeypatch.setattr(parallel.torch, 'save', half)
    with pytest.raises(OSError): save(dict(a=torch.zeros(3)), path)
    assert torch.equal(torch.load(path, weights_only=True)['a'], torch.ones(3))

def test_interrupted_cell(mark, tmp_path):
    "In a notebook: the cell ends, and what it has started"
    from jupyter_client.manager import start_new_kernel
    manager, client = start_new_kernel(cwd=str(tmp_path))
    try:
        asked = client.execute(waits.replace('folder', repr(str(tmp_path))))
        until = time.monotonic() + 60
        while not ((tmp_path/'0').exists() and (tmp_path/'1').exists()):
            assert time.monotonic() < until
            time.sleep(.05)
        assert len(left(mark)) >= 3
        manager.interrupt_kernel()
        while (reply := client.get_shell_msg(timeout=limit))['parent_header'].get('msg_id') != asked: pass
        assert reply['content']['ename'] == 'KeyboardInterrupt'
        assert len(left(mark)) == 1                                  # the kernel
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
