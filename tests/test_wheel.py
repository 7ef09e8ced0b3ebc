"The built wheel in clean environments: no clone near, no nbdev, no network; with the newest fastcore, and with the oldest releases of all."
import json, os, re, subprocess, sys
from configparser import ConfigParser
from pathlib import Path
import pytest
from course_backprop.tools.lab import learners, lessons as lessons_in

root = Path(__file__).resolve().parent.parent
lessons = lessons_in(root/'nbs')
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

def pinned():
    "Constraints of the checks, but for fastcore: there the newest"
    pins = (root/'.ci'/'constraints.txt').read_text(encoding='utf-8').splitlines()
    return [o for o in pins if not o.startswith('fastcore')]

def floors():
    "Constraints that make of every `>=` in settings.ini a `==`"
    config = ConfigParser(delimiters=['='])
    config.read(root/'settings.ini', encoding='utf-8')
    needs = config['DEFAULT']['requirements'].split()
    assert all(o.count('>=') == 1 for o in needs)
    return [o.replace('>=', '==') for o in needs]

@pytest.fixture(scope='session', params=[pinned, floors], ids=['newest fastcore', 'oldest'])
def env(request, tmp_path_factory):
    "The wheel, built from this clone, in an environment of its own"
    if request.param is floors and os.environ.get('BACKPROP_OLDEST') != 'required': pytest.skip('takes long: BACKPROP_OLDEST=required wants it')
    folder = tmp_path_factory.mktemp('wheel')
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '-w', folder, root], check=True)
    env = Env(folder)
    (folder/'pins.txt').write_text('\n'.join(request.param()))
    env.constraints = request.param
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
    if env.constraints is pinned: assert int(versions['fastcore'].split('.')[0]) >= 2
    else:
        for name, version in (o.split('==') for o in floors()):
            assert versions[name].split('+')[0].split('.')[:version.count('.') + 1] == version.split('.'), (name, versions[name])
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

def test_lessons_are_shipped(env, copied):
    "As they are in the clone. A learner's copies have neither outputs nor what is for contributors"
    shipped = env.python('from course_backprop.tools.lab import lessons; print(*lessons(), sep="\\n")').splitlines()
    assert {Path(o).name: Path(o).read_bytes() for o in shipped} == {o.name: o.read_bytes() for o in lessons}
    assert {o.name: o.read_bytes() for o in copied.glob('*.ipynb')} == {o.name: learners(o.read_bytes()) for o in lessons}
    assert not any(word in o.read_text(encoding='utf-8') for o in copied.glob('*.ipynb') for word in ('default_exp', 'nbdev_export'))

def test_second_run_keeps_an_edited_lesson(env):
    folder = env.cwd/'edited'
    env.run('backprop_lab', 'edited', '--copy-only')
    (folder/lessons[0].name).write_text('my own work')
    said = env.run('backprop_lab', 'edited', '--copy-only').stdout
    assert (folder/lessons[0].name).read_text() == 'my own work' and '1 edited by you and kept' in said
    assert len(list(folder.glob('*.ipynb'))) == len(lessons)

def test_metadata(env):
    "The licences of code and data, and a description whose links hold where there is no clone"
    said = env.python('from importlib.metadata import metadata; m = metadata("course_backprop"); print(m["License"], *m.get_all("License-File")); print(m.get_payload())')
    licence, text = said.split('\n', 1)
    assert licence == 'Apache-2.0 AND CC-BY-SA-3.0 LICENSE course_backprop/data/README.md'
    targets = re.findall(r'\]\(([^)\s]+)', text)
    assert len(targets) > 10 and all(o.startswith('https://') for o in targets)
    assert sum('/raw/main/README_files/' in o for o in targets) == 1

def test_folder_that_cannot_be_written(env):
    "One line, no traceback"
    (env.cwd/'file.txt').touch()
    done = env.run('backprop_lab', 'file.txt', '--copy-only', ok=False)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and 'file.txt' in done.stderr

@pytest.mark.parametrize('lesson', [o.name for o in lessons])
def test_lesson_runs(env, copied, lesson):
    "To the end, in the folder a learner has it in"
    env.run('jupyter', 'nbconvert', '--to', 'notebook', '--execute', '--output-dir', env.cwd/'run', copied/lesson)
