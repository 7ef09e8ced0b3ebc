"Many processes at once, and somebody who isn't the superuser: nothing of a learner's is lost."
import json, os, subprocess, sys
from pathlib import Path
from tempfile import TemporaryDirectory
import pytest
from course_backprop.tools import lab
from course_backprop.tools.progress import Progress

def together(code, *args): # Python, and a list of words for each process
    "Run one process for each of `args`, all at once, and see them end well"
    crowd = [subprocess.Popen([sys.executable, '-c', code, *map(str, o)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, encoding='utf-8') for o in args]
    for o in crowd:
        said = o.communicate(timeout=300)
        assert o.returncode == 0, said

writes = '''
import sys
from course_backprop.tools.progress import Progress
store = Progress(sys.argv[1])
for k in range(50): assert store.record(f'{sys.argv[2]} {k}', True) == ''
'''

@pytest.mark.parametrize('time', range(int(os.environ.get('BACKPROP_ROUNDS', 1))))      # 10 to be sure
def test_record_of_twenty_processes(tmp_path, time):
    "20 processes write 50 solved exercises each: 1,000 of 1,000 are there, and nothing was taken for damaged"
    record = tmp_path/'progress.json'
    together(writes, *([record, k] for k in range(20)))
    assert len(Progress(record).load()) == 1000
    assert sorted(o.name for o in tmp_path.iterdir() if not o.name.endswith('.lock')) == ['progress.json']

copies = '''
import sys
from course_backprop.tools.lab import backprop_lab
sys.exit(backprop_lab([sys.argv[1], '--copy-only']))
'''

def test_forty_labs_at_once(tmp_path):
    "All end well, each lesson is there once, whole, and there is no `.new` of any"
    folder = tmp_path/'lessons'
    together(copies, *[[folder]]*40)
    shipped = {o.name: lab.learners(o.read_bytes()) for o in lab.lessons()}
    assert {o.name: o.read_bytes() for o in folder.glob('*.ipynb')} == shipped
    assert set(json.loads((folder/lab.origins_name).read_text())) == set(shipped)
    assert not [*folder.glob('*.tmp')] + [*folder.glob('.*.tmp')]

@pytest.mark.skipif(not hasattr(os, 'geteuid'), reason='modes are those of Linux and macOS')
def test_record_that_cannot_be_read():
    "Mode 0 in a folder that can be written: an ordinary user could rename it away, and put another in its place"
    with TemporaryDirectory() as folder:
        record = Path(folder)/'progress.json'
        record.write_text('{"mse": "solved"}')
        os.chmod(record, 0)
        os.chmod(folder, 0o777)
        code = """
import os, sys
from course_backprop.tools.progress import Progress
if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)
print(Progress(sys.argv[1]).record('relu', True))"""
        said = subprocess.run([sys.executable, '-c', code, record], capture_output=True, encoding='utf-8', check=True).stdout
        assert 'could not be written down' in said and 'ermission' in said
        os.chmod(record, 0o600)
        assert record.read_text() == '{"mse": "solved"}' and [o.name for o in Path(folder).glob('*.json')] == ['progress.json']
