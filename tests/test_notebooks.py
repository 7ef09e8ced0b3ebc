"Rules every notebook keeps. Each is a function from notebooks to complaints, and is shown a notebook that breaks it."
import ast, json, re, sys
from pathlib import Path
import pytest
from course_backprop.tools.lab import LESSON, number_and_module

root = Path(__file__).resolve().parent.parent
paths = sorted(o for o in (root/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in o.parts)
directive = re.compile(r'#\s*\|')

class Notebook:
    "A notebook by its path below nbs/, with the text of its cells"
    def __init__(self, name, nb, size=0):
        self.name, self.size, self.cells, self.metadata = name, size, nb['cells'], nb.get('metadata', {})
        self.code = [''.join(c['source']) for c in self.cells if c['cell_type'] == 'code']
        self.exp = [m[1] for s in self.code for m in re.finditer(r'^#\| *default_exp +(\S+)', s, re.M)]
        self.exported = '\n'.join(s for s in self.code if re.match(r'#\| *export\b', s))
        self.outputs = [o for c in self.cells for o in c.get('outputs', [])]
        self.number = name.split('_')[0] if LESSON.fullmatch(name.removesuffix('.ipynb')) else None        # '10b', as text in order; None: not a lesson
        self.room = name.removeprefix('exercises/').removesuffix('.ipynb') if name.startswith('exercises/') else None   # the lesson whose exercises these are
        self.depth = name.count('/') + 1

notebooks = [Notebook(o.relative_to(root/'nbs').as_posix(), json.loads(o.read_text(encoding='utf-8')), o.stat().st_size)
             for o in paths]
lesson_of = {o.exp[0]: o.number for o in notebooks if o.exp and o.number is not None}     # {module: lesson's number}

# Rules for one notebook

def directives_first(nb):
    "nbdev ignores a directive that isn't at the start of its cell"
    for s in nb.code:
        lines = s.split('\n')
        start = next((i for i,l in enumerate(lines) if not directive.match(l)), len(lines))
        yield from (l for l in lines[start:] if directive.match(l) or re.match(r'#\s*(export|default_exp)\b', l))

def imports(source):
    "Modules a piece of source imports, wherever it does so; `*` for a star import"
    for o in ast.walk(ast.parse(source)):
        if isinstance(o, ast.Import): yield from (a.name for a in o.names)
        elif isinstance(o, ast.ImportFrom):
            if o.module == 'course_backprop': yield from (f'course_backprop.{a.name}' for a in o.names)   # modules, by name
            else: yield o.module or '.'
            if o.names[0].name == '*': yield '*'

lesson_tools = [f'tools/{o}.ipynb' for o in ('lab', 'bench', 'step')]     # the tools that know lessons

def may_import(nb, name):
    """Lessons: torch, the standard library, earlier lessons, tools.compare, and tqdm to train. Exercises of a lesson: that lesson and earlier ones,
    tools, and no other lesson's exercises. Tools: no lesson, but for some of them, and no exercises"""
    package, _, module = name.partition('.')
    if name == '*' or package == '' or module.split('.')[0] == 'exercises': return False
    if nb.room: return lesson_of.get(module, '00') <= lesson_of.get(nb.room, '') if package == 'course_backprop' else package == 'torch' or package in sys.stdlib_module_names
    if nb.number is None: return module not in lesson_of or nb.name in lesson_tools
    if package == 'course_backprop': return module == 'tools.compare' or lesson_of.get(module, '99') < nb.number
    return package == 'torch' or package in sys.stdlib_module_names or (package == 'tqdm' and nb.name == '10_train.ipynb')

def allowed_imports(nb): return [o for o in imports(nb.exported) if not may_import(nb, o)]

def no_later_lesson(nb):
    "No cell of a lesson uses a lesson that comes after it"
    found = re.findall(r'(?:from|import) +course_backprop\.(\w+)', '\n'.join(nb.code))
    return [o for o in found if nb.number is not None and lesson_of.get(o, '') > nb.number]

def small(nb): return [f'{nb.size} bytes'] if nb.size > 600_000 else []

def clean_outputs(nb):
    "Nothing in the saved outputs of an error, of the error stream, or of the machine they were made on"
    for o in nb.outputs:
        if o['output_type'] == 'error' or o.get('name') == 'stderr': yield o
        texts = [o.get('text', ''), *(v for k,v in o.get('data', {}).items() if k.startswith('text/'))]
        text = re.sub(r'data:[^"\')\s]*', '', '\n'.join(map(''.join, texts)))
        yield from re.findall(r'(?<![\w.:/<)\]])/[A-Za-z][\w.-]*/[\w.-]+|\b[A-Z]:\\\w+', text)

def no_redrawn_lines(nb):
    "No line in a saved output that was drawn over, as a progress bar's is at each step: the last one is enough"
    return [t for o in nb.outputs for t in o.get('text', []) if '\r' in t]

def no_widgets(nb):
    "No widget in a saved output, and none's state beside the cells: nothing could move it there"
    return [k for o in nb.outputs for k in o.get('data', {}) if 'widget' in k] + [k for k in nb.metadata if k == 'widgets']

def has_outputs(nb): return ['no saved outputs'] if nb.number is not None and not nb.outputs else []

last_lines = '''if Path('{}settings.ini').exists() and find_spec('nbdev'):  # in a contributor's clone: bring the package up to date
    from nbdev import nbdev_export; nbdev_export()'''

def exports_last(nb):
    "In a clone, running a notebook that has a module to its end brings the package up to date"
    if not nb.exp: return []
    last = nb.code[-1] if nb.code else ''
    return [] if last.startswith('#| hide\n') and last.endswith(last_lines.format('../'*nb.depth)) else [last]

rules = [directives_first, allowed_imports, no_later_lesson, small, clean_outputs, no_redrawn_lines, no_widgets, has_outputs, exports_last]

@pytest.mark.parametrize('rule', rules, ids=lambda o: o.__name__)
@pytest.mark.parametrize('nb', notebooks, ids=lambda o: o.name)
def test_rule(nb, rule): assert list(rule(nb)) == []

# Rules for all of them together

def one_notebook_a_module(nbs, modules):
    "Two notebooks with one default_exp; an exported module without a notebook; a notebook whose module isn't there"
    exps = [e.replace('.', '/') + '.py' for o in nbs for e in o.exp]
    return {o for o in exps if exps.count(o) > 1} | set(exps) ^ set(modules)

def one_name(nb): return nb.number is not None and nb.exp != [number_and_module(nb.name)[1]]

def test_one_notebook_a_module():
    package = root/'course_backprop'
    exported = [o.relative_to(package).as_posix() for o in package.rglob('*.py')
                if '# AUTOGENERATED! DO NOT EDIT!' in o.read_text(encoding='utf-8')]
    assert one_notebook_a_module(notebooks, exported) == set()

@pytest.mark.parametrize('nb', notebooks, ids=lambda o: o.name)
def test_module_is_named_as_its_lesson(nb): assert not one_name(nb)

# Each rule is shown what it is there for

def made_up(*code, name='03_made_up.ipynb', outputs=(), size=0, **metadata):
    cells = [dict(cell_type='code', source=s, outputs=[]) for s in code]
    cells[0]['outputs'] = list(outputs)
    return Notebook(name, dict(cells=cells, metadata=metadata), size)

def text(s): return [dict(output_type='stream', name='stdout', text=s)]
def html(s): return [dict(output_type='display_data', data={'text/html': s})]

@pytest.mark.parametrize('rule, nb', [
    (directives_first, made_up('x = 1\n#| export\ny = 2')),
    (directives_first, made_up('\n#| export\ny = 2')),
    (directives_first, made_up('#export\ny = 2')),
    (allowed_imports, made_up('#| export\nimport numpy as np')),
    (allowed_imports, made_up('#| export\ndef f():\n    import matplotlib.pyplot')),
    (allowed_imports, made_up('#| export\nfrom course_backprop.tools.draw import chain')),
    (allowed_imports, made_up('#| export\nfrom torch import *')),
    (allowed_imports, made_up('#| export\nfrom course_backprop import forward, train', name='05_made_up.ipynb')),
    (allowed_imports, made_up('#| export\nfrom course_backprop.mnist import load_mnist', name='00_made_up.ipynb')),
    (allowed_imports, made_up('#| export\nfrom course_backprop.mnist import load_mnist', name='tools/draw.ipynb')),
    (allowed_imports, made_up('#| export\nfrom course_backprop.train import SGD', name='exercises/forward.ipynb')),
    (allowed_imports, made_up('#| export\nfrom course_backprop.exercises.forward import TASKS', name='exercises/mse_grad.ipynb')),
    (allowed_imports, made_up('#| export\nfrom course_backprop.exercises import forward', name='exercises/mse_grad.ipynb')),
    (allowed_imports, made_up('#| export\nfrom course_backprop.exercises.forward import TASKS', name='tools/cases.ipynb')),
    (no_later_lesson, made_up('from course_backprop.forward import lin', name='00_made_up.ipynb')),
    (small, made_up('x', size=600_001)),
    (clean_outputs, made_up('x', outputs=[dict(output_type='error', traceback=[])])),
    (clean_outputs, made_up('x', outputs=[dict(output_type='stream', name='stderr', text='careful')])),
    (clean_outputs, made_up('x', outputs=text("saved in '/home/ada/course'"))),
    (clean_outputs, made_up('x', outputs=text('C:\\Users\\ada'))),
    (clean_outputs, made_up('x', outputs=html('<td>/opt/course/data</td>'))),
    (no_redrawn_lines, made_up('x', outputs=text(['\repoch 0/3', '\repoch 3/3', '\n']))),
    (no_widgets, made_up('x', outputs=[dict(output_type='display_data', data={'application/vnd.jupyter.widget-view+json': {}})])),
    (no_widgets, made_up('x', widgets={})),
    (has_outputs, made_up('x')),
    (exports_last, made_up('#| default_exp made_up', '#| hide\n' + last_lines.format('../'), 'x')),
    (exports_last, made_up('#| default_exp tools.a', '#| hide\n' + last_lines.format('../'), name='tools/a.ipynb')),
    (one_name, made_up('#| default_exp other')),
])
def test_rule_is_seen_to_fail(rule, nb):
    broken = rule(nb)
    assert broken if isinstance(broken, bool) else list(broken)

def test_one_notebook_a_module_is_seen_to_fail():
    a, b = made_up('#| default_exp tools.a'), made_up('#| default_exp tools.b')
    assert one_notebook_a_module([a, b], ['tools/a.py', 'tools/b.py']) == set()
    assert one_notebook_a_module([a, a], ['tools/a.py']) == {'tools/a.py'}
    assert one_notebook_a_module([a, b], ['tools/a.py']) == {'tools/b.py'}
    assert one_notebook_a_module([a], ['tools/a.py', 'tools/b.py']) == {'tools/b.py'}

@pytest.mark.parametrize('output', [
    text('dL/dw1 and n/2/3'), html('<td>1</td></tr>see https://example.org/a/b'),
    html('<img src="data:image/png;base64,/9j/ab/cd">')])
def test_harmless_outputs_pass(output): assert not list(clean_outputs(made_up('x', outputs=output)))

def test_right_imports_pass():
    code = '#| export\nimport math, torch\nfrom torch import nn\nfrom course_backprop.mnist import load_mnist\n'
    assert allowed_imports(made_up(code + 'from course_backprop.tools.compare import compare')) == []
    assert allowed_imports(made_up('#| export\nfrom course_backprop import forward, mnist', name='05_made_up.ipynb')) == []
