"Pages from notebooks: contributors' cells left out, pictures with their words, answers and hints that open by a click, the proofs folded."
import base64, hashlib, html, importlib, inspect, json, re, shutil, struct
from configparser import ConfigParser
from pathlib import Path
from posixpath import normpath
from docutils import nodes
from fastcore.docments import docments
from course_backprop.tools.exercises import find_exercise
from course_backprop.tools.lab import FOLDED, learners, learners_cell
from course_backprop.tools.play import pencil_page
from course_backprop.tools.question import Question

root = Path(__file__).resolve().parent.parent
config = ConfigParser(delimiters=['='])
config.read(root/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
nbs, made = root/'nbs', root/'docs'/'_pages'         # the second: written afresh by each build
lessons = sorted(nbs.glob('[0-9][0-9]_*.ipynb'))
parts = {'By hand': 0, 'Refactor and train': 7, 'Beyond one chain': 11}        # each by its first lesson

# Pictures

alt_line = re.compile(r'^#\| *fig-alt: *(.*)\n?', re.M)

def size(data): # bytes of a PNG
    return struct.unpack('>II', data[16:24]) if data[:4] == b'\x89PNG' else None

def picture(output, alt, out, up):
    "An output as HTML that shows its picture, which is written to the site; None if it has none"
    data, mime = output.get('data', {}), next((o for o in ('image/svg+xml', 'image/png') if o in output.get('data', {})), None)
    if not mime: return None
    about, content = output['metadata'].get(mime, {}), ''.join(data[mime])
    content = content.encode() if 'svg' in mime else base64.b64decode(content)
    said = alt or about.get('alt') or ''.join(data.get('text/plain', '')).replace('\n', ' ')
    if said.startswith('<Figure'): said = ''
    name = f'_images/{hashlib.sha256(content).hexdigest()[:20]}.{"svg" if "svg" in mime else "png"}'
    (out/name).parent.mkdir(parents=True, exist_ok=True)
    (out/name).write_bytes(content)
    attributes = dict(src=up + name, alt=said, loading='lazy') | (dict(zip(('width', 'height'), size(content))) if size(content) else {})
    if about.get('frames'): attributes |= {'class': 'strip', 'data-frames': json.dumps(about['frames']), 'data-columns': about['columns']}
    tag = ' '.join(f'{k}="{html.escape(str(v))}"' for k, v in attributes.items())
    return dict(output_type='display_data', metadata={}, data={'text/html': f'<img {tag}>'})

# Questions and exercises

asks = re.compile(r"^check\('(\w+)'", re.M)

def opens(what, inner, group=''): # markdown that opens by a click
    return f'<details{group and f" name={group!r}"}><summary>{html.escape(what)}</summary>\n\n{inner}\n\n</details>\n'

def hints(task):
    "One inside the other, so that they come one by one"
    inner, n = '', len(task.hints)
    for k in range(n, 0, -1): inner = opens(f'Hint {k} of {n}', f'{task.hints[k-1]}\n\n{inner}')
    return inner

def choices(task):
    "A click on a guess opens what is said to it"
    said = {str(o): f'That is not it. {why}' for o, why in task.wrong.items()} | {str(task.answer): f'Right. {task.meaning}'}
    return '\n'.join(opens(o, said[o], f'guess-{task.name}') for o in sorted(said, key=lambda o: (len(o), o))) if task.wrong else opens('The answer', f'{task.answer}. {task.meaning}')

def offered(name, source, lesson):
    "What stands below a check instead of its empty card"
    task = find_exercise(name)
    body = '' if 'explain=False' in source else hints(task)
    if isinstance(task, Question): body = f'Your guess?\n\n{choices(task)}\n{body}'
    else: body += f'\nTry it in JupyterLab: `backprop_lab`, then [open this lesson](http://localhost:8888/lab/tree/{lesson}).\n'
    return dict(cell_type='markdown', metadata={}, source=f'<div class="task">\n\n{body}\n</div>\n')

# A page

link = re.compile(r'(\]\()(?![a-z]+:|[#/])([^)\s]+)')

def to_repository(source, folder):
    "Links to what isn't a page lead to the repository"
    def moved(m):
        target = normpath(f'nbs/{folder}/{m[2]}')
        page = re.match(r'nbs/(\d\d_\w+|solutions/\w+|index)\.ipynb', target)
        return m[0] if page else f'{m[1]}{cfg["git_url"]}/blob/{cfg["branch"]}/{target}'
    return link.sub(moved, source)

imports = re.compile(r'((import|from) [^\n]*\n?|use_style\(\)\n?|[ \t]+[^\n]*\n?|\n)+')

def cells(nb, name, out):
    "The cells of a page, in order"
    folder, up = Path(name).parent.as_posix(), '../'*name.count('/')
    for old in nb['cells']:
        alts = iter(alt_line.findall(''.join(old['source'])))
        cell = learners_cell(old, True)
        if not cell: continue
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown':
            yield cell | dict(source=to_repository(source, folder))
            continue
        blank = [o for o in cell['outputs'] if ''.join(o.get('data', {}).get('text/plain', '')).startswith('○')]
        if imports.fullmatch(source): cell = cell | dict(metadata={'tags': ['hide-input']})
        shown = [picture(o, next(alts, '') if 'image/png' in o.get('data', {}) else '', out, up) or o for o in cell['outputs'] if o not in blank]
        if 'pencil_network(' in source and folder == '.':
            shown.append(dict(output_type='display_data', metadata={}, data={'text/html': pencil_page() + '<noscript><style>.backprop-pencil { display: none }</style></noscript>'}))
        yield cell | dict(outputs=shown)
        for task in asks.findall(source) if blank else (): yield offered(task, source, name)

def page(name, out, more=''):
    "Write a notebook's page"
    nb = json.loads((nbs/name).read_text(encoding='utf-8'))
    folded = [re.match(r'#+ (.*)', ''.join(c['source']))[1] for c in nb['cells'] if c['metadata'].get(FOLDED)]
    nb['cells'] = [*cells(nb, name, out), *([dict(cell_type='markdown', metadata={}, source=more)] if more else [])]
    nb['metadata']['folded'] = '|'.join(folded)
    for k, c in enumerate(nb['cells']): c['id'] = f'c{k}'
    (made/name).parent.mkdir(parents=True, exist_ok=True)
    (made/name).write_text(json.dumps(nb), encoding='utf-8')

def title_of(path): return ''.join(json.loads(path.read_text(encoding='utf-8'))['cells'][0]['source']).split('\n')[0].removeprefix('# ')

def contents():
    "The order of the pages"
    starts = [*parts.values(), 100]
    for (title, start), end, k in zip(parts.items(), starts[1:], range(1, 9)):
        names = [f'{int(o.name[:2])}. {title_of(o)} <{o.stem}>' for o in lessons if start <= int(o.name[:2]) < end]
        yield '\n'.join([f'```{{toctree}}\n:hidden:\n:caption: {k}. {title}\n', *names, f'solutions/part{k}\n```\n'])
    yield '```{toctree}\n:hidden:\n:caption: The package\n\nreference\n```\n'

# The reference

def entry(module, name):
    "A public name: how it is called, what it does, what it takes"
    thing = getattr(module, name)
    doc = (inspect.getdoc(thing) or '').strip() if callable(thing) else ''
    if not doc: return ''
    try: call = f'{name}{inspect.signature(thing)}'
    except (TypeError, ValueError): call = name
    return call, doc

def make(out):
    "Write the sources of all pages; to their folder"
    shutil.rmtree(made, ignore_errors=True)
    for o in lessons: page(o.name, out)
    for o in sorted(nbs.glob('solutions/*.ipynb')): page(f'solutions/{o.name}', out)
    page('index.ipynb', out, '\n'.join(contents()))
    (made/'reference.md').write_text('# Reference\n\nTo come.\n')
    return made

def downloads(out):
    "What the download button gives: the notebook as a learner has it, with its outputs"
    for o in (out/'_sources').rglob('*.ipynb'): o.write_bytes(learners((nbs/o.relative_to(out/'_sources')).read_bytes(), True))

def fold(doctree, folded=()):
    "The sections that are collapsed in JupyterLab open by a click here"
    for section in list(doctree.findall(nodes.section)):
        title, *rest = section.children
        if title.astext() not in folded: continue
        raw = lambda text: nodes.raw('', text, format='html')
        section[:] = [title, raw('<details class="folded"><summary>Unfold</summary>'), *rest, raw('</details>')]
