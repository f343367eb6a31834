"""Every key and its default. The other configs start from these and change a few.

Command:  python eval.py --config davis17 --config.memory.every=3   (any key below, any config)
"""

from ml_collections import config_dict

from vos_jax import config as configs


def get_config():
    config = config_dict.ConfigDict()

    # Root of all randomness.
    config.seed = 0
    # Trained weights: "auto" = the ones that ship, "none" = training-free on ImageNet features, or a path.
    config.checkpoint = "auto"
    # What the network computes in: "float32" or "bfloat16". Parameters, softmax and losses stay float32.
    config.dtype = "float32"

    config.data = data = config_dict.ConfigDict()
    # "davis" (official layout), "folders" (a folder of folders of frames), "rendered" (drawn by our code).
    data.source = "davis"
    # Where the data set lies; eval.py's --data.
    data.root = "data/DAVIS"
    # DAVIS year, which chooses the list in ImageSets/<year>/.
    data.year = 2017
    # The list's name: "val", "train", "test-dev".
    data.split = "val"
    # The folder in JPEGImages/ and Annotations/: "480p" or "Full-Resolution".
    data.resolution = "480p"
    # Only these sequences; empty = all of the split. eval.py's --sequences.
    data.sequences = ()
    # All objects are one: the DAVIS 2016 protocol.
    data.merge_objects = False

    config.model = model = config_dict.ConfigDict()
    # Backbone and widths: "lite0" (small, its weights ship) or "resnet50" (the paper's).
    model.variant = "lite0"
    # What an object looks like now: "dynamic" (memory read), "first", "previous", "mean".
    model.template = configs.choice("dynamic")
    # How a template meets a proposal: "adaptive", "none", "pooled", "topk", "transport".
    model.alignment = configs.choice("adaptive")
    # Which proposal belongs to which object: "pgd" (the paper's layer), "hungarian", "sinkhorn", "greedy".
    model.matching = configs.choice("pgd")
    # How the memory is read: "object", "shared", "topk", "kernelized", "l2".
    model.read = configs.choice("object")
    # Where proposals come from: "network"; "none" leaves the masks that the memory propagates.
    model.proposals = "network"
    # Whether RefineNet sharpens the coarse masks.
    model.refine = True
    # Whose similarity/IoU balance (lambda) matching uses: a training set's name, or "default".
    model.dataset = "default"

    config.memory = memory = config_dict.ConfigDict()
    # Slots of the bank: what bounds memory and time however long a video is.
    memory.capacity = 8
    # A frame in so many stays in the bank; the previous frame is always there.
    memory.every = 5
    # Who leaves a full bank: the oldest ("fifo") or the least read ("usage") unpinned slot.
    memory.eviction = "fifo"
    # How many memory pixels a read of kind "topk" keeps.
    memory.topk = 32
    # How far from its own place a pixel reads, in cells of 16 pixels; 0 = the whole frame.
    memory.window = 0

    config.training_free = training_free = config_dict.ConfigDict()
    # Backbone stages whose unit vectors are the keys: "c4" (stride 16), "c3" (stride 8, finer and slower).
    training_free.features = ("c4",)
    # Softmax temperature of cosine similarity.
    training_free.temperature = 0.05
    # How many memory pixels vote for a pixel.
    training_free.topk = 10
    # How far from its own place a pixel reads, in cells; the first frame is read whole.
    training_free.window = 8

    config.objects = objects = config_dict.ConfigDict()
    # Object counts are padded to the next of these, so that few programs are compiled.
    objects.buckets = (1, 2, 4, 8, 16, 32, 64)

    config.eval = evaluation = config_dict.ConfigDict()
    # Where masks and results.json go; eval.py's --out.
    evaluation.out = "results"
    # Threads that score.
    evaluation.workers = 2
    # Whether to draw overlays: mp4 and contact sheet; eval.py's --overlay.
    evaluation.overlay = False
    # Whether to segment anew what is finished; eval.py's --overwrite.
    evaluation.overwrite = False

    return config
