"The built wheel in a clean environment: no clone near, no nbdev, no network, the newest fastcore."
import json, os, re, subprocess, sys
from pathlib import Path
import pytest

root = Path(__file__).resolve().parent.parent
lessons = sorted((root/'nbs').glob('[0-9][0-9]_*.ipynb'))
modules = [m[1] for o in lessons for m in re.finditer(r'#\| default_exp (\S+)"', o.read_text(encoding='utf-8'))]

class Env:
    "A virtual environment, and an empty folder to run its commands in"
    def __init__(self, folder):
        self.cwd, self.bin = folder/'empty', folder/'venv'/('Scripts' if os.name == 'nt' else 'bin')
        self.cwd.mkdir()
        subprocess.run([sys.executable, '-m', 'venv', folder/'venv'], check=True)
        keep = {k: v for k,v in os.environ.items() if not k.startswith(('PYTHON', 'JUPYTER', 'IPYTHON', 'VIRTUAL_ENV'))}
        self.env = {**keep, 'PATH': f"{self.bin}{os.pathsep}{keep['PATH']}", 'PYTHONUTF8': '1', 'MPLBACKEND': 'agg'}

    def run(self, command, *args, ok=True, **kw):
        "Run a command of this environment; its result, after a look at the exit status"
        done = subprocess.run([self.bin/command, *map(str, args)], cwd=self.cwd, env={**self.env, **kw},
                              stdin=subprocess.DEVNULL, capture_output=True, encoding='utf-8')
        assert not ok or done.returncode == 0, f'{command} {args}\n{done.stdout}\n{done.stderr}'
        return done

    def python(self, code):
        "What a piece of Python prints; -I: neither the current folder nor PYTHONPATH is looked at"
        return self.run('python', '-I', '-c', code).stdout.strip()

@pytest.fixture(scope='session')
def env(tmp_path_factory):
    "The wheel, built from this clone, in an environment of its own"
    folder = tmp_path_factory.mktemp('wheel')
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '-w', folder, root], check=True)
    env = Env(folder)
    pins = (root/'.ci'/'constraints.txt').read_text(encoding='utf-8').splitlines()
    (folder/'pins.txt').write_text('\n'.join(o for o in pins if not o.startswith('fastcore')))    # the newest fastcore
    env.run('python', '-m', 'pip', 'install', '--quiet', *folder.glob('*.whl'), PIP_CONSTRAINT=str(folder/'pins.txt'))
    return env

@pytest.fixture(scope='session')
def copied(env):
    "The folder `backprop_lab --copy-only` makes"
    env.run('backprop_lab', '--copy-only')
    return env.cwd/'course_backprop_lessons'

def test_environment(env):
    "It is as clean as the other tests take it to be"
    packages = json.loads(env.run('python', '-m', 'pip', 'list', '--format', 'json').stdout)
    versions = {o['name'].replace('-', '_'): o['version'] for o in packages}
    assert int(versions['fastcore'].split('.')[0]) >= 2
    assert not {'nbdev', 'execnb', 'pytest'} & set(versions)
    where = Path(env.python('import course_backprop; print(course_backprop.__file__)'))
    assert env.bin.parent in where.parents and root not in where.parents

def test_import(env):
    code = 'from course_backprop.backward import forward_and_backward; print(forward_and_backward.__name__)'
    assert env.python(code) == 'forward_and_backward'

def test_load_mnist_offline(env):
    "With every way to the network closed"
    assert env.python('''
import socket, urllib.request
def closed(*args, **kw): raise OSError('no network')
socket.socket.connect = socket.getaddrinfo = closed
try: urllib.request.urlopen('http://localhost')
except OSError as e: assert 'no network' in str(e)
from course_backprop.mnist import load_mnist
print([tuple(o.shape) for o in load_mnist()])''') == '[(50000, 784), (50000,), (10000, 784), (10000,)]'

def test_backprop_check(env): env.run('backprop_check')

heavy = ['matplotlib', 'ipywidgets', 'sympy', 'jupyterlab', 'nbdev', 'IPython']
def imports(env, module):
    "Which of the heavy packages a module imports that torch alone doesn't"
    code = f'import sys, torch; before = set(sys.modules); import {module}; print(*set(sys.modules) - before)'
    found = env.python(code).split()
    return [o for o in heavy if o in found]

@pytest.mark.parametrize('module', modules)
def test_light_import(env, module): assert imports(env, f'course_backprop.{module}') == []

def test_light_import_of_the_commands(env):
    code = 'import sys, course_backprop.tools.lab; print(*sys.modules)'
    assert not {*heavy, 'torch'} & set(env.python(code).split())

def test_heavy_import_is_seen(env): assert imports(env, 'matplotlib.pyplot') == ['matplotlib']

def test_lessons_are_shipped(copied):
    assert {o.name: o.read_bytes() for o in copied.glob('*.ipynb')} == {o.name: o.read_bytes() for o in lessons}

def test_second_run_keeps_an_edited_lesson(env):
    folder = env.cwd/'edited'
    env.run('backprop_lab', 'edited', '--copy-only')
    (folder/lessons[0].name).write_text('my own work')
    said = env.run('backprop_lab', 'edited', '--copy-only').stdout
    assert (folder/lessons[0].name).read_text() == 'my own work' and '1 edited by you and kept' in said
    assert len(list(folder.glob('*.ipynb'))) == len(lessons)

def test_folder_that_cannot_be_written(env):
    "One line, no traceback"
    (env.cwd/'file.txt').touch()
    done = env.run('backprop_lab', 'file.txt', '--copy-only', ok=False)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and 'file.txt' in done.stderr

@pytest.mark.parametrize('lesson', [o.name for o in lessons])
def test_lesson_runs(env, copied, lesson):
    "To the end, in the folder a learner has it in"
    env.run('jupyter', 'nbconvert', '--to', 'notebook', '--execute', '--output-dir', env.cwd/'run', copied/lesson)
