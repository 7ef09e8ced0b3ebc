"Pages from notebooks: contributors' cells left out, pictures with their words, answers and hints that open by a click, the proofs folded."
import base64, hashlib, html, importlib, inspect, json, re, shutil, struct
from configparser import ConfigParser
from pathlib import Path
from posixpath import normpath, relpath
from docutils import nodes
from fastcore.docments import docments
from course_backprop.tools.exercises import find_exercise
from course_backprop.tools.lab import FOLDED, PROOF, learners, learners_cell, lessons as lessons_in, number_and_module
from course_backprop.tools.play import FILM, pencil_page
from course_backprop.tools.question import Question

root = Path(__file__).resolve().parent.parent
config = ConfigParser(delimiters=['='])
config.read(root/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
nbs, made = root/'nbs', root/'docs'/'_pages'         # the second: written afresh by each build
lessons = lessons_in(nbs)
more = sorted((root/'docs').glob('*.md'))            # pages that aren't notebooks
parts = {'By hand': 0, 'Refactor and train': 7, 'Beyond one chain': 11}        # each by its first lesson

# Pictures

alt_line = re.compile(r'^#\| *fig-alt: *(.*)\n?', re.M)

def size(data): # bytes of a PNG
    return struct.unpack('>II', data[16:24]) if data[:4] == b'\x89PNG' else None

def keep(content, kind, out):
    "Write a picture to the site, by what is in it; to its address there"
    name = f'_images/{hashlib.sha256(content).hexdigest()[:20]}.{kind}'
    (out/name).parent.mkdir(parents=True, exist_ok=True)
    (out/name).write_bytes(content)
    return name

def tag(**attributes): return '<img ' + ' '.join(f'{k}="{html.escape(str(v))}"' for k, v in attributes.items()) + '>'

def film(what, png, out, up):
    "A film as HTML that a few lines of script roll; hidden without these"
    what, png = dict(what), base64.b64decode(what.pop('png', png))
    width, height = size(png)
    what |= dict(width=width, height=height, start=len(what['values'])//2 if what['name'] != 'step' else 0)
    controls = (f'<button type="button">◀ previous</button> <input type="range" min="0" max="{len(what["values"]) - 1}" aria-label="{what["name"]}"> '
                '<button type="button">next ▶</button> <span class="told" aria-hidden="true"></span>')
    return (f'<div class="backprop-film backprop-play" data-film="{html.escape(json.dumps(what))}" style="max-width: {width + 14}px" hidden>'
            f'<div class="controls">{controls}</div><div class="frame" style="min-width: min(560px, {width}px)">{tag(src=up + keep(png, "png", out), alt=what["says"][what["start"]])}</div></div>')

def picture(output, alt, out, up):
    "An output that shows a picture, as HTML: the picture with its words, and its film; None if it shows none"
    data, kinds = output.get('data', {}), {'image/svg+xml': 'svg', 'image/png': 'png'}
    mime = next((o for o in kinds if o in data), None)
    if not mime: return None
    content = ''.join(data[mime])
    told = alt or output['metadata'].get(mime, {}).get('alt') or ('' if kinds[mime] == 'png' else ''.join(data['text/plain']))
    content = content.encode() if kinds[mime] == 'svg' else base64.b64decode(content)
    still = tag(src=up + keep(content, kinds[mime], out), alt=told, loading='lazy', **dict(zip(('width', 'height'), size(content) or ())))
    if what := data.get(FILM):
        if 'png' in what: still += film(what, None, out, up)
        else: still = f'{film(what, "".join(data[mime]), out, up)}<noscript>{still}</noscript>'
    return dict(output_type='display_data', metadata={}, data={'text/html': still})

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
    "Links to what isn't a page lead to the repository; `folder` is that of the source, seen from nbs/"
    def moved(m):
        target = normpath(f'nbs/{folder}/{m[2]}')
        page = re.match(r'(?:nbs/((?:\d\d[a-z]?_\w+|solutions/\w+|index)\.ipynb.*)|docs/(\w+\.md.*))', target)
        return m[1] + (relpath(page[1] or page[2], folder.removeprefix('../docs') or '.') if page else f'{cfg["git_url"]}/blob/{cfg["branch"]}/{target}')
    return link.sub(moved, source)

def only_imports(source): return all(re.match(r'(import|from|use_style\(\))|\s|$', o) for o in source.split('\n'))

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
        if only_imports(source): cell = cell | dict(metadata={'tags': ['hide-input']})
        shown = [picture(o, next(alts, '') if 'image/png' in o.get('data', {}) else '', out, up) or o for o in cell['outputs'] if o not in blank]
        if 'pencil_network(' in source and folder == '.':
            shown.append(dict(output_type='display_data', metadata={}, data={'text/html': pencil_page() + '<noscript><style>.backprop-pencil { display: none }</style></noscript>'}))
        yield cell | dict(outputs=shown)
        for task in asks.findall(source) if blank else (): yield offered(task, source, name)

def page(name, out, more=''):
    "Write a notebook's page"
    nb = json.loads((nbs/name).read_text(encoding='utf-8'))
    cut = [''.join(c['source']).split('\n')[0].lstrip('# ') for c in nb['cells'] if c['metadata'].get(FOLDED) or ''.join(c['source']).startswith(PROOF)]
    folded[name.removesuffix('.ipynb')] = cut
    nb['cells'] = [*cells(nb, name, out), *([dict(cell_type='markdown', metadata={}, source=more)] if more else [])]
    for k, c in enumerate(nb['cells']): c['id'] = f'c{k}'
    (made/name).parent.mkdir(parents=True, exist_ok=True)
    (made/name).write_text(json.dumps(nb), encoding='utf-8')

def title_of(path): return ''.join(json.loads(path.read_text(encoding='utf-8'))['cells'][0]['source']).split('\n')[0].removeprefix('# ')

def contents():
    "The order of the pages"
    starts = [*parts.values(), 100]
    for (title, start), end, k in zip(parts.items(), starts[1:], range(1, 9)):
        names = [f'{number_and_module(o)[0]}. {title_of(o)} <{o.stem}>' for o in lessons if start <= int(o.name[:2]) < end]
        yield '\n'.join([f'```{{toctree}}\n:hidden:\n:caption: {k}. {title}\n', *names, f'solutions/part{k}\n```\n'])
    yield '\n'.join(['```{toctree}\n:hidden:\n:caption: The package\n', *(o.stem for o in more), 'reference\n```\n'])

# The reference

def entry(thing, name):
    "A public name in Markdown: how it is called, what it does, what it takes"
    try: call = f'{name}{inspect.signature(thing)}'
    except (TypeError, ValueError): call = name
    call = re.sub(r'<(?:function|class) \W?(\w+)[^>]*>', r'\1', re.sub(r' at 0x[0-9a-f]+', '', call))
    takes = [f'- `{o}`: {text.strip()}' for o, text in docments(thing).items() if text and o != 'return'] if inspect.isfunction(thing) else []
    gives = [f'- gives {docments(thing)["return"].strip()}'] if takes and docments(thing).get('return') else []
    return '\n'.join([f'### {name}', '', '```python', call, '```', '', inspect.getdoc(thing), '', *takes, *gives, ''])

def reference():
    "The public names of the lessons' modules, then of the tools"
    files = [root/'course_backprop'/f'{number_and_module(o)[1]}.py' for o in lessons] + sorted((root/'course_backprop'/'tools').glob('[a-z]*.py'))
    yield '# Reference\n\nThe public names of the package, module by module.\n'
    for path in files:
        module = importlib.import_module('.'.join(path.relative_to(root).with_suffix('').parts))
        own = [(o, getattr(module, o)) for o in module.__all__]
        yield f'## {module.__name__}\n\n{inspect.getdoc(module)}\n'
        yield from (entry(thing, name) for name, thing in own if callable(thing) and thing.__doc__ and thing.__module__ == module.__name__)

def make(out):
    "Write the sources of all pages; to their folder"
    shutil.rmtree(made, ignore_errors=True)
    for o in lessons: page(o.name, out)
    for o in sorted(nbs.glob('solutions/*.ipynb')): page(f'solutions/{o.name}', out)
    page('index.ipynb', out, '\n'.join(contents()))
    for o in more: (made/o.name).write_text(to_repository(o.read_text(encoding='utf-8'), '../docs'), encoding='utf-8')
    (made/'reference.md').write_text('\n'.join(reference()), encoding='utf-8')
    return made

def downloads(out):
    "What the download button gives: the notebook as a learner has it, with its outputs"
    for o in (out/'_sources').rglob('*.ipynb'): o.write_bytes(learners((nbs/o.relative_to(out/'_sources')).read_bytes(), True))

folded = {}            # by page: the headings of sections that are collapsed in JupyterLab

def fold(app, doctree):
    "These open by a click here, too"
    for section in list(doctree.findall(nodes.section)):
        title, *rest = section.children
        if title.astext() not in folded.get(app.env.docname, ()): continue
        section[:] = [title, raw('<details class="folded"><summary>Unfold</summary>'), *rest, raw('</details>')]

def raw(text): return nodes.raw('', text, format='html')
