"""What is trusted, what is not, and how each is read.

**Trusted, because it is code**: this repository, installed packages (those with entry points in `nsrlib.models` and
`nsrlib.papers` are imported), and notebooks. `nsr reproduce` and `nsr sweep` run notebooks with your rights: run none
that you would not run as a script.

**Not trusted**: everything else that is read. It may be damaged or made to harm; it gets an error of one line.

* **Pictures, data sets, LR and HR files**: Pillow with one list of formats (`nsrlib.pictures.FORMATS`). The content
  decides, not the name, and PostScript is in no list. A limit of pixels holds for all but a file that you name to
  `nsr upscale`. An error names the file, and `--skip-broken` goes on.
* **Weights**: safetensors, or PyTorch's files by a reader that follows the pickle's instructions without calling
  anything that it names (`nsrlib.models.checkpoints`). What a file claims is compared with its size before memory is
  made for it. Layout, type and finiteness are checked before the first tensor of a network changes. MATLAB's files
  (`nsrlib.models.matlab`) have at most 16 MiB, packed and unpacked, and four levels; only numbers are taken from them.
* **Checkpoints of trainings**: `torch.load(weights_only=True)`.
* **TensorFlow's checkpoint**: a reader without TensorFlow (`nsrlib.papers.drcn.jiny`). An index has at most 256 KiB, a
  data file 32 MiB; no byte is read twice, keys are bounded by the index, checksums are compared.
* **Downloads**: `http` and `https` only, never from `https` to `http`, from addresses that `data/sources.csv` pins to
  commits (`nsrlib.data.download`). A file gets its name when size and SHA-256 are right; one without a hash has at
  most 64 MiB and is called unverified. There are a least speed and a longest wait.
* **Folders of runs and sweeps**: JSON in the types that the pages take (`nsrlib.runs.foreign`), at most 256 MiB a file
  and 12 levels of values; names have no slashes; pictures on pages are PNG or JPEG. A page names the damage.
* **Grid files**: `yaml.safe_load`, JSON, CSV and Python literals (`nsrlib.runs.grids`).

**What is written**: pages escape every text, run no script of a foreign folder and load nothing from a network, but for
MathJax in the pages of single notebooks. Those pages show a notebook's outputs as they are: HTML and scripts of a
notebook that you ran. In `sweep.csv` an apostrophe stands before texts that begin as a formula does. Paths of this
machine are cut out of records, outputs, logs and pages (`nsrlib.runs.texts.Scrubber`); what your notebook prints of
itself, such as a password, is not.

**Not defended against**: errors in Pillow, PyTorch and other packages that decode (keep them up to date; read pictures
of strangers in a container); who may write into your data folders, cache or run folders while they are read; links in a
run folder, which are followed; a changed `data/sources.csv`; networks and pictures that are merely expensive.
"""
