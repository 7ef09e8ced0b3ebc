"Builds the package from what settings.ini says, and puts the lessons (nbs/NN_*.ipynb) into the wheel as course_backprop/lessons."
import re, shutil
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']

class FreshBuild(build_py):
    "Starts from an empty folder: else a lesson that was renamed since the last build would be packed again from build/"
    def run(self):
        if not self.editable_mode: shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()

def readme():
    "README.md with links that hold on the package index, too"
    def absolute(m): return f"{m[1]}{cfg['git_url']}/{'raw' if m[2].endswith('.png') else 'blob'}/{cfg['branch']}/{m[2]}"
    return re.sub(r'(\]\()(?![a-z]+:|#)([^)\s]+)', absolute, (here/'README.md').read_text(encoding='utf-8'))

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'].split(),
    long_description=readme(), long_description_content_type='text/markdown',
    author=cfg['author'], author_email=cfg['author_email'], url=cfg['git_url'], license='Apache-2.0 AND CC-BY-SA-3.0',    # the second: MNIST
    license_files=['LICENSE', 'course_backprop/data/README.md'],
    classifiers=['Development Status :: 4 - Beta', 'Intended Audience :: Education', 'Natural Language :: English',
                 'Programming Language :: Python :: 3', 'Topic :: Scientific/Engineering :: Artificial Intelligence'],
    python_requires='>=' + cfg['min_python'],
    install_requires=cfg['requirements'].split(),
    extras_require={'docs': cfg['docs_requirements'].split(), 'class': cfg['class_requirements'].split(),
                    'dev': sum((cfg[f'{o}_requirements'].split() for o in ('dev', 'docs', 'class')), [])},
    packages=[*find_packages(include=['course_backprop', 'course_backprop.*']), 'course_backprop.lessons'],
    package_dir={'course_backprop.lessons': 'nbs'},
    include_package_data=False, package_data={'course_backprop': ['data/*'],
                                              'course_backprop.lessons': ['[0-9][0-9]*_*.ipynb', 'solutions/*.ipynb', 'exercises/*.ipynb']},
    entry_points={'console_scripts': cfg['console_scripts'].split()},
    cmdclass={'build_py': FreshBuild},
)
