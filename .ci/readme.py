"Makes README.md and README_files/ from nbs/index.ipynb: python .ci/readme.py"
import re, shutil
from pathlib import Path
from posixpath import normpath
import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

root = Path(__file__).resolve().parent.parent
link = re.compile(r'(\]\()(?![a-z]+:|[#/])([^)\s]+)')       # the target of a relative link or picture
alt = re.compile(r'^#\| *fig-alt: *(.*)\n', re.M)           # what a picture shows, for those who can't see it

def prepare(nb):
    "Drop hidden cells and directives; make links that start in nbs/ start here; returns what the pictures show"
    nb.cells = [c for c in nb.cells if not re.match(r'#\| *hide *$', c.source, re.M)]
    alts = [o for c in nb.cells for o in alt.findall(c.source)]
    for c in nb.cells:
        if c.cell_type == 'markdown': c.source = link.sub(lambda m: m[1] + normpath('nbs/' + m[2]), c.source)
        else: c.source = re.sub(r'^#\|.*\n?', '', c.source, flags=re.M)
    return alts

def to_markdown(nb):
    "The text, and the pictures by name"
    alts = iter(prepare(nb))
    nb.metadata.language_info = dict(name='python')
    exporter = MarkdownExporter(config=Config(
        MarkdownExporter=dict(display_data_priority=['text/markdown', 'image/svg+xml', 'image/png', 'text/plain']),
        TagRemovePreprocessor=dict(enabled=True, remove_cell_tags=['remove_cell'], remove_input_tags=['remove_input'])))
    text, resources = exporter.from_notebook_node(nb, dict(unique_key='README', output_files_dir='README_files'))
    text = re.sub(r'!\[(png|svg)\]', lambda m: f"![{next(alts, 'figure')}]", text)
    text = re.sub(r'[ \t]+$', '', text, flags=re.M)
    return re.sub(r'\n{3,}', '\n\n', text).strip() + '\n', resources['outputs']

def write(text, pictures):
    "Put both where the repository is read from; a picture that is no longer made goes"
    (root/'README.md').write_text(text, encoding='utf-8', newline='\n')
    shutil.rmtree(root/'README_files', ignore_errors=True)
    for name,data in pictures.items():
        (root/name).parent.mkdir(exist_ok=True)
        (root/name).write_bytes(data)

if __name__ == '__main__': write(*to_markdown(nbformat.read(root/'nbs'/'index.ipynb', as_version=4)))
