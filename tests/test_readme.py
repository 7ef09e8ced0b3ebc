"README.md: its example prints what it says, its links lead somewhere, its commands are the ones the checks run."
import re, subprocess, sys
from pathlib import Path
from textwrap import dedent
import pytest

root = Path(__file__).resolve().parent.parent
readme = (root/'README.md').read_text(encoding='utf-8')
fence = re.compile(r'^```(\w*)\n(.*?)^```\n', re.M | re.S)

def example(text):
    "The first ```python block, and the block indented by four that follows it"
    code, _, rest = text.partition('```python\n')[2].partition('\n```\n')
    return code, dedent(re.match(r'(?:(?: {4}.*)?\n)*', rest)[0]).strip()

def printed(code):
    done = subprocess.run([sys.executable, '-c', code], cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()

def words(text):
    "How many words a reader sees, without code blocks, what they print, and the targets of links"
    text = re.sub(r'^ {4}.*$', '', fence.sub('', text), flags=re.M)
    text = re.sub(r'\]\([^)]*\)', ']', re.sub(r'!\[[^]]*\]\([^)]*\)', '', text))
    return len(re.findall(r"\w[\w'’-]*", text))

def dead_links(text):
    "Targets of relative links and pictures that don't exist"
    links = re.findall(r'\]\(([^)\s#]+)', fence.sub('', text))
    return [o for o in links if not re.match('[a-z]+:', o) and not (root/o).exists()]

def test_example():
    code, output = example(readme)
    assert printed(code) == output and output
    assert len([o for o in code.splitlines() if o.strip()]) <= 5

def test_length(): assert 150 <= words(readme) <= 350

def test_links(): assert dead_links(readme) == []

@pytest.mark.parametrize('line', [
    "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/backprop_lab",
    "python3 -m venv .venv && .venv/bin/pip install -e '.[dev]' && .venv/bin/nbdev_test",
    r"python -m venv .venv; .venv\Scripts\pip install .; .venv\Scripts\backprop_lab",
    r"python -m venv .venv; .venv\Scripts\pip install -e '.[dev]'; .venv\Scripts\nbdev_test"])
def test_commands(line): assert line in readme.splitlines()

def test_the_checks_themselves():
    "A wrong number, a dead link and code are seen for what they are"
    text = 'One [two](nbs) ![three](no.png) [four](gone.ipynb#top)\n\n```python\nprint(1 + 1)\n```\n\n    3\n\nfive\n'
    code, output = example(text)
    assert (printed(code), output) == ('2', '3')
    assert words(text) == 4
    assert dead_links(text) == ['no.png', 'gone.ipynb']
