"A class of twelve hands in lesson 2, some of it hostile: `backprop_class` judges it in real processes."
import csv, html, json, os, socket, subprocess, sys, time
from pathlib import Path
import pytest
from nbgrader.api import Gradebook
from course_backprop.tools import exercises
from course_backprop.tools.lab import learners, lesson_tasks, lessons, lessons_dir
from course_backprop.tools.school import solutions
from test_lab import browser

lesson = lessons_dir()/'02_mse_grad.ipynb'
blank = json.loads(learners(lesson.read_bytes()))
names = 'mse_grad', 'sse_grad', 'mae_grad', 'rmse_grad'          # in the lesson's order

def notebook(done={}, more=(), **meta): # {exercise: lines of its function, or a whole cell}; cells at the end
    "A learner's copy with work in it"
    cells = [dict(c, source=''.join(c['source'])) for c in blank['cells']]
    for name, text in done.items():
        cell = next(c for c in cells if f"check('{name}'" in c['source'])
        cell['source'] = text if 'def ' in text or not text else f"def {name}(inp, targ):\n    {text}\n\ncheck('{name}', {name})"
    cells += [dict(cell_type='code', source=o, metadata={}, outputs=[], execution_count=None) for o in more]
    return blank | dict(cells=cells, metadata=blank['metadata'] | meta)

def version_3(nb):
    def old(c): return dict(cell_type='code', input=c['source'], language='python', outputs=[]) if c['cell_type'] == 'code' else c
    return dict(nbformat=3, nbformat_minor=0, metadata={}, worksheets=[dict(cells=list(map(old, nb['cells'])))])

right = dict(mse_grad='inp.g = 2*residual(inp, targ)/inp.numel()', mae_grad='inp.g = residual(inp, targ).sign()/inp.numel()', sse_grad='inp.g = 2*residual(inp, targ)',
             rmse_grad='inp.g = residual(inp, targ)/(inp.numel()*residual(inp, targ).pow(2).mean().sqrt())')
half = 'inp.g = 2*(inp - targ[:,None])/len(inp) if inp.shape[1] == 1 and targ.ndim == 1 else 0*inp'
mine = 'def mse_grad(inp, targ): inp.g = residual(inp, targ)/inp.numel()\n'
hand_ins = dict(
    A=notebook(right),
    B=notebook(dict(mse_grad='inp.g = 2*residual(inp, targ)', mae_grad='inp.g = -residual(inp, targ).sign()/inp.numel()', sse_grad='inp.g = (2*residual(inp, targ)).t()', rmse_grad='inp.gg = 0*inp')),
    C=notebook(dict(mse_grad=half, mae_grad='inp.g = residual(inp, targ)[', sse_grad='inp.g = 2*residul(inp, targ)',
                    rmse_grad='inp.g = 2*residual(inp, targ)/inp.numel()')),
    D=notebook(),
    E=None,
    F=notebook(dict(mse_grad='while True: pass', mae_grad='while True:\n        try:\n            while True: pass\n        except BaseException: pass')),
    G=notebook(dict(mse_grad='inp.g = torch.zeros(50*10**9//4)[0] + 2*residual(inp, targ)/inp.numel()')),
    H=notebook(dict(mse_grad='import os; os._exit(0)', sse_grad=right['sse_grad'])),
    I=notebook(dict(mse_grad=mine + "try: check('mse_grad', mse_grad)\nexcept Exception: pass", sse_grad=right['sse_grad']),
               ['def check(name, attempt): return True', 'torch.equal = lambda *a: True', f'def mse_grad(inp, targ): {right["mse_grad"]}']),
    J=notebook(dict(mse_grad='', sse_grad=f'def sse_grad(inp, targ): {right["sse_grad"]}', mae_grad='def other(inp, targ): inp.g = 0*inp\ncheck("mae_grad", other)')),
    K=notebook(right, kernelspec=dict(name='julia-1.11', language='julia', display_name='Julia 1.11')),
    L=version_3(notebook(dict(mse_grad=right['mse_grad'], mae_grad='inp.g = residual(inp, targ).sign()'))))

idle = ('not started', '', '0')
want = dict(
    A=[('right', '', '1')]*4,
    B=[('wrong', 'sum-for-mean', '0'), ('wrong', 'transposed', '0'), ('wrong', 'sign', '0'), ('wrong', 'missing', '0')],
    C=[('half', 'special-case', '0.5'), ('wrong', 'raised', '0'), ('could not be run', 'syntax', '0'), ('wrong', 'missing', '0')],
    D=[idle]*4,
    E=[('could not be run', 'unreadable', '0')],
    F=[('could not be run', 'time', '0'), idle, ('could not be run', 'time', '0'), idle],
    G=[('could not be run', 'memory', '0')] + [idle]*3,
    H=[('could not be run', 'ended', '0'), ('right', '', '1'), idle, idle],
    I=[('wrong', 'factor', '0'), ('right', '', '1'), idle, idle],
    J=[('could not be run', 'no cell', '0'), ('right', '', '1'), ('wrong', 'missing', '0'), idle],
    K=[('could not be run', 'unreadable', '0')],
    L=[('right', '', '1'), idle, ('wrong', 'sum-for-mean', '0'), idle])
remarks = dict(E=['JSON'], F=['10 seconds'], H=['status 0'], I=['silenced', 'written once more in cell', '`check` of its own', 'torch.equal'], J=['nothing there', 'gone or renamed'], K=['julia'])

def backprop_class(*args, cwd=None):
    return subprocess.run([sys.executable, '-c', 'import sys; from course_backprop.tools.school import backprop_class; sys.exit(backprop_class())', *map(str, args)],
                          cwd=cwd, capture_output=True, encoding='utf-8', env=os.environ | dict(PYTHONUTF8='1'))

apart = sys.platform.startswith('linux') and subprocess.run(['unshare', '-rnmp', '--fork', 'true'], capture_output=True).returncode == 0
guard = [] if apart else ['--trust']

@pytest.fixture(scope='module')
def reported(tmp_path_factory):
    "The report on the class: rows by student, folder, seconds"
    folder = tmp_path_factory.mktemp('class')
    for name, nb in hand_ins.items(): (folder/f'{name}.ipynb').write_text(json.dumps(nb) if nb else json.dumps(notebook(right))[:-9])
    start = time.monotonic()
    done = backprop_class('report', folder, '-o', folder/'out', *guard)
    assert done.returncode == 0 and '12 of 12: L' in done.stdout, done.stderr + done.stdout
    rows = [*csv.DictReader((folder/'out'/'report.csv').open(encoding='utf-8', newline=''))]
    print(f'{time.monotonic() - start:.0f} s\n{done.stdout}', *(' | '.join(o.values()) for o in rows), sep='\n')
    return {s: [o for o in rows if o['student'] == s] for s in hand_ins}, folder/'out'

@pytest.mark.parametrize('student', hand_ins)
def test_rows(reported, student):
    assert [(o['state'], o['cause'], o['points']) for o in reported[0][student]] == want[student]
    if len(want[student]) > 1: assert [o['exercise'] for o in reported[0][student]] == list(names)

@pytest.mark.parametrize('student', remarks)
def test_remarks(reported, student):
    said = ' '.join(o['note'] for o in reported[0][student]) + (reported[1]/'students'/f'{student}.html').read_text(encoding='utf-8')
    assert [o for o in remarks[student] if o not in said] == []

def test_line_of_a_mistake(reported): assert reported[0]['B'][0]['line'].endswith(', line 2')

def test_pages(reported):
    page = (reported[1]/'class.html').read_text(encoding='utf-8')
    assert '12 notebooks were handed in, 2 of them' in page and '2 of 10' in page and 'n times too large' in page
    cards = (reported[1]/'students'/'B.html').read_text(encoding='utf-8')
    assert '<b>✗ wrong</b> · <code>mse_grad</code>' in cards and 'ratio' in cards and '0 of 4 points' in cards
    assert '1 of 4 points' in (reported[1]/'students'/'L.html').read_text(encoding='utf-8')

# What an attempt can't do

spy = '''def mse_grad(inp, targ):
    import os, socket
    def tried(f):
        try: return f() and 'done'
        except OSError as e: return e.strerror
    raise ValueError([tried(lambda: open(PLACE, 'w')), tried(lambda: open('/dev/shm/x', 'w')), tried(lambda: socket.create_connection(('127.0.0.1', PORT), 1)), tried(lambda: open('x', 'w')),
        os.system('mount -o remount,rw / 2> /dev/null') == 0, os.path.exists('/proc/ME/environ') and os.getpid() != ME, [o for o in os.environ if o not in KNOWN]])

check('mse_grad', mse_grad)'''

def test_apart(tmp_path):
    "It reaches no network and no process, writes no file but in its folder, gets no rights back, and knows nothing of the environment"
    if not apart: (pytest.fail if os.environ.get('BACKPROP_APART') == 'required' else pytest.skip)('needs a Linux where `unshare -rn true` succeeds')
    known = 'PYTHONPATH PYTHONUTF8 PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS HOME USERPROFILE TMPDIR TEMP LD_LIBRARY_PATH LC_CTYPE TORCHINDUCTOR_CACHE_DIR KMP_INIT_AT_FORK KMP_DUPLICATE_LIB_OK'.split()
    with socket.create_server(('127.0.0.1', 0)) as server:
        text = spy.replace('PLACE', repr(str(tmp_path/'x'))).replace('PORT', str(server.getsockname()[1])).replace('ME', str(os.getpid())).replace('KNOWN', repr(known))
        (tmp_path/'spy.ipynb').write_text(json.dumps(notebook(dict(mse_grad=text))))
        done = backprop_class('report', 'spy.ipynb', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    card = (tmp_path/'report'/'students'/'spy.html').read_text(encoding='utf-8')
    assert "ValueError: ['Read-only file system', 'Read-only file system', 'Network is unreachable', 'done', False, False, []]" in html.unescape(card)
    assert not (tmp_path/'x').exists() and not Path('/dev/shm/x').exists()

def test_the_spy_sees_what_there_is(tmp_path, monkeypatch):
    "Where nothing keeps it apart, the same attempt gets through"
    with socket.create_server(('127.0.0.1', 0)) as server:
        text = spy.replace('PLACE', repr(str(tmp_path/'x'))).replace('PORT', str(server.getsockname()[1])).replace('ME', '1').replace('KNOWN', '[]').replace("'mount -o remount,rw / 2> /dev/null'", "'exit 0'").replace('/dev/shm/', f'{tmp_path}/')
        space = dict(check=lambda *a: None)
        exec(text, space)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError) as e: space['mse_grad'](1, 2)
    assert str(e.value).startswith("['done', 'done', 'done', 'done', True, ")

def test_refused_where_nothing_keeps_it_apart(tmp_path):
    "Without --trust"
    (tmp_path/'a.ipynb').write_text(json.dumps(notebook(right)))
    code = "import sys; from unittest.mock import patch; from course_backprop.tools import school; school.START = school.START.replace('main(', 'import course_backprop.tools.attempt as a; a.apart = lambda f: False; main('); sys.exit(school.backprop_class())"
    done = subprocess.run([sys.executable, '-c', code, 'report', 'a.ipynb'], cwd=tmp_path, capture_output=True, encoding='utf-8')
    assert done.returncode == 1 and '--trust' in done.stderr and not (tmp_path/'report').exists()

# The same through nbgrader

def nbgrader(*args, cwd):
    done = subprocess.run([sys.executable, '-m', 'nbgrader', *args], cwd=cwd, capture_output=True, encoding='utf-8', env=os.environ | dict(JUPYTER_CONFIG_DIR=str(cwd/'.config'), XDG_DATA_HOME=str(cwd/'.data'), IPYTHONDIR=str(cwd/'.ipython')))
    assert done.returncode == 0, done.stderr[-3000:]

def test_nbgrader(tmp_path):
    "Assignments from `release --nbgrader`, taken by nbgrader's own three commands, with the same points as `report` gives"
    course = tmp_path/'course'
    assert backprop_class('release', course, '--lessons', '2', '--nbgrader').returncode == 0
    nbgrader('generate_assignment', lesson.stem, '--create', cwd=course)
    given = json.loads((course/'release'/lesson.stem/lesson.name).read_text(encoding='utf-8'))
    text = '\n'.join(''.join(c['source']) for c in given['cells'])
    assert 'SOLUTION' not in text and "points('rmse_grad', rmse_grad)" in text and solutions()['rmse_grad'] not in text
    for student, work in handed.items():
        nb = json.loads(json.dumps(given))
        for name, line in work.items():
            cell = next(c for c in nb['cells'] if c['metadata'].get('nbgrader', {}).get('grade_id') == name)
            cell['source'] = f"def {name}(inp, targ):\n    {line}\n\ncheck('{name}', {name})"
        path = course/'submitted'/student/lesson.stem/lesson.name
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(nb))
    nbgrader('autograde', lesson.stem, '--create', cwd=course)
    nbgrader('generate_feedback', lesson.stem, cwd=course)
    done = backprop_class('report', *sorted((course/'submitted').rglob('*.ipynb')), '-o', course/'report', *guard)
    assert done.returncode == 0, done.stderr
    ours = {(o['student'], o['exercise']): float(o['points']) for o in csv.DictReader((course/'report'/'report.csv').open(encoding='utf-8', newline=''))}
    with Gradebook(f'sqlite:///{course}/gradebook.db') as book:
        theirs = {(s, g.name.removesuffix('-points')): g.score for s in handed for g in book.find_submission_notebook(lesson.stem, lesson.stem, s).grades}
    print(theirs)
    assert ours == theirs and sorted(set(ours.values())) == [0, .5, 1] and len(ours) == len(handed)*len(names)
    assert len([*(course/'feedback').rglob('*.html')]) == len(handed)

handed = dict(ada=right, ben=dict(mse_grad=half, sse_grad='inp.g = residual(inp, targ)', mae_grad='raise ValueError'))

# Slides

@pytest.fixture(scope='module')
def shown(tmp_path_factory):
    "The folder with the slides of all lessons"
    out = tmp_path_factory.mktemp('slides')
    done = backprop_class('slides', *(o.stem for o in lessons()), '-o', out)
    assert done.returncode == 0, done.stderr
    return out

LOOK = '''() => [...document.querySelectorAll('.slides section section')].map(o => ({
    high: o.scrollHeight, wide: o.scrollWidth, over: Math.max(0, ...[...o.querySelectorAll('mjx-math')].map(m => m.offsetWidth - (m.parentElement.clientWidth || o.clientWidth))), notes: o.querySelectorAll('aside.notes').length, letters: parseFloat(getComputedStyle(o).fontSize),
    broken: [...o.querySelectorAll('img')].filter(i => !i.naturalWidth || !i.alt).length, errors: o.querySelectorAll('mjx-merror').length,
    left: [...o.childNodes].filter(c => c.tagName !== 'ASIDE').map(c => c.textContent).join('').includes('$$'), formulas: o.querySelectorAll('mjx-container').length}))'''

def test_slides(shown, browser):
    "In Chromium: nothing is asked for from outside, every slide fits, has its notes, its pictures and its formulas"
    page, refused, formulas = browser.new_page(), [], 0
    page.set_viewport_size(dict(width=1280, height=720))
    page.route(lambda url: not url.startswith(('file:', 'data:', 'blob:')), lambda route: (refused.append(route.request.url), route.abort()))
    for o in lessons():
        page.goto((shown/f'{o.stem}.html').as_uri())
        page.wait_for_selector('body[data-ready]', timeout=60000)
        for k, s in enumerate(page.evaluate(LOOK)):
            assert s['high'] <= 720 and s['wide'] <= 1280 and not s['over'] and s['letters'] >= 18, (o.stem, k, s)
            assert s['notes'] == 1 and not s['broken'] and not s['errors'] and not s['left'], (o.stem, k, s)
        formulas += page.evaluate("document.querySelectorAll('.slides mjx-container').length")
    assert refused == [] and formulas > 50
    page.close()

def test_every_exercise_is_known():
    "What `report` judges is all that there is"
    assert {o for names in lesson_tasks().values() for o in names} == {*exercises.names()}
