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
    # "davis" (official layout), "ytvos" (YouTube-VOS: meta.json), "folders" (a folder of folders of frames),
    # "rendered" (drawn by our code).
    data.source = "davis"
    # Where the data set lies; eval.py's --data.
    data.root = "data/DAVIS"
    # The data set's year: chooses the list in ImageSets/<year>/ of DAVIS.
    data.year = 2017
    # The list's name: "val", "train", "test-dev"; of YouTube-VOS the folder's: "valid".
    data.split = "val"
    # The folder in JPEGImages/ and Annotations/: "480p" or "Full-Resolution".
    data.resolution = "480p"
    # Only these sequences; empty = all of the split. eval.py's --sequences.
    data.sequences = ()
    # All objects are one: the DAVIS 2016 protocol.
    data.merge_objects = False
    # Which masks are given: "first_frame", "first" (each object's first), "all" (later ones correct), or
    # "auto" = as the source's protocol says.
    data.given = "auto"
    # The folder with every frame of YouTube-VOS (valid_all_frames), to see more than the required ones.
    data.all_frames = ""
    # Categories of YouTube-VOS that were trained on; empty = those of ../train/meta.json, where it is there.
    data.seen = ()

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
    # What is alike in it: "l2" (negative squared distance, as STCN) or "dot" (as STM).
    model.affinity = configs.choice("l2")
    # Where proposals come from: "network", "file" (another program's, see docs/proposals.md); "none" leaves
    # the masks that the memory propagates.
    model.proposals = "network"
    # The folder with one <sequence>.json per video, for "file".
    model.proposals_dir = ""
    # Most proposals of a frame.
    model.num_proposals = 32
    # Whether RefineNet sharpens the coarse masks.
    model.refine = True
    # Whose similarity/IoU balance (lambda) matching uses: a training set's name, or "default".
    model.dataset = "default"

    config.memory = memory = config_dict.ConfigDict()
    # Slots of the bank: what bounds memory and time however long a video is.
    memory.capacity = 8
    # A frame in so many stays in the bank.
    memory.every = 5
    # Give the previous frame a slot as well, until the next frame replaces it.
    memory.previous = False
    # Who leaves a full bank: the oldest ("fifo") or the least read ("usage") unpinned slot; "consolidate":
    # the oldest, whose most used pixels stay, in one slot more for all of them.
    memory.eviction = "fifo"
    # How many memory pixels a read of kind "topk" keeps.
    memory.topk = 32
    # How far from its own place a pixel reads, in cells of 16 pixels; 0 = the whole frame.
    memory.window = 0
    # How far from where it was one frame before a trained model looks for an object, as a share of the short
    # side; 0 = everywhere. Training skips frames and always looks everywhere.
    memory.reach = 0.14

    config.training_free = training_free = config_dict.ConfigDict()
    # Backbone stages whose unit vectors are the keys, each counting the same.
    training_free.features = ("c3", "c4")
    # Pixels per cell: 16, or 8: finer and some 10 times as slow (a window of 15 and a capacity of 4 suit it).
    training_free.stride = 16
    # Whether each frame's mean feature is taken off.
    training_free.centred = True
    # Softmax temperature of cosine similarity.
    training_free.temperature = 0.1
    # How many memory pixels vote for a pixel.
    training_free.topk = 10
    # How far from its own place a pixel reads, in cells; the first frame is read whole.
    training_free.window = 8
    # Give the previous frame a slot: masks are handed on between neighbours. In place of memory.previous.
    training_free.previous = True

    config.objects = objects = config_dict.ConfigDict()
    # Object counts are padded to the next of these, so that few programs are compiled.
    objects.buckets = (1, 2, 3, 5, 8, 13, 21, 34, 64)

    config.inference = inference = config_dict.ConfigDict()
    # Frames with a shorter short side are enlarged to so many pixels inside, threefold at most: memory sees
    # in cells of 16 pixels. Masks come out at the frames' size; 0 = none are.
    inference.min_size = 480
    # Frames with a longer short side are shrunk to so many pixels inside, masks come out at the frames' size;
    # 0 = none are. eval.py's --max_size.
    inference.max_size = 0
    # Sizes of the views that are merged on probabilities; eval.py's --scales.
    inference.scales = (1.0,)
    # Whether each view is followed mirrored, too; eval.py's --flip.
    inference.flip = False
    # From the annotated frames on: "forward", "backward" or "both"; eval.py's --direction.
    inference.direction = "forward"

    inference.adaptation = adaptation = config_dict.ConfigDict()
    # Steps in which RefineNet learns from each frame whose masks are given; 0 = it stays as it was trained.
    # Models without one do not adapt. eval.py's and segment.py's --adapt.
    adaptation.steps = 0
    # Adam's learning rate at its highest; it falls to 0.
    adaptation.learning_rate = 5e-4
    # Clips per step, made from the frame.
    adaptation.batch = 4
    # Frames per clip.
    adaptation.length = 3
    # Height and width of a clip in pixels.
    adaptation.crop = 256
    # Most objects of a clip; of a frame with more, each clip is about some.
    adaptation.max_objects = 2
    # Share of the change that is kept; less forgets less of what the frame does not show.
    adaptation.share = 0.7

    config.eval = evaluation = config_dict.ConfigDict()
    # Where masks and results.json go; eval.py's --out.
    evaluation.out = "results"
    # Threads that score.
    evaluation.workers = 2
    # Whether to draw overlays: mp4 and contact sheet; eval.py's --overlay.
    evaluation.overlay = False
    # Whether to segment anew what is finished; eval.py's --overwrite.
    evaluation.overwrite = False
    # What comes before the final masks, written to OUT/stages/NAME (--score_only scores it): "coarse", the
    # matched proposals; "propagated", what the memory says by itself. Trained weights only.
    evaluation.stages = ()
    # Whether to write soft masks for `python -m vos_jax.merge`; eval.py's --save_probabilities.
    evaluation.save_probabilities = False

    config.train = train(config_dict.ConfigDict())
    return config


# Of the 30 sequences of DAVIS 2016 train, never trained on: development is judged by them, so that the
# official validation set stays unseen until a figure is published.
HELD_BACK = (
    "bmx-bumps",
    "car-turn",
    "dance-jump",
    "dog-agility",
    "flamingo",
    "horsejump-low",
    "scooter-gray",
)


def train(train):
    """What train.py reads; vos_jax/train/setup.py makes dataclasses of it."""
    # Optimiser steps of the whole run.
    train.steps = 10_000
    # Clips per step, over all devices and processes.
    train.batch = 8
    # Frames of a clip.
    train.clip_length = 3
    # Side of the square that clips are cropped to, a multiple of 32 (the paper's: 352).
    train.crop = 352
    # Most objects of a clip; fewer are padded.
    train.max_objects = 4
    # Most labelled instances of a clip, followed or not, that the proposal network learns from; further ones
    # count neither as objects nor as background.
    train.max_instances = 8
    # What to begin with: "imagenet" (backbone trained, heads random), "random", or an exported .safetensors;
    # train.py's --init.
    train.init = "imagenet"
    # Worker processes that decode and augment; 0 = threads of this process.
    train.workers = 0
    # Threads per worker, or of this process.
    train.threads = 2
    # Batches made ahead, per worker.
    train.prefetch = 2
    # Share of unreadable items above which a run stops.
    train.max_unreadable = 0.01
    # Steps between two lines of progress.
    train.log_every = 20
    # Steps between two pictures in TensorBoard; 0 = none.
    train.picture_every = 1000

    train.sources = config_dict.ConfigDict()
    # Where clips are drawn from, mixed by weight; --data NAME=DIR says where they lie.
    train.sources.static = source("static", "data/static")
    # The DAVIS layout, without the held-back sequences.
    train.sources.davis = source("davis_folder", "data/DAVIS", dataset_name="davis", exclude=HELD_BACK)
    # YouTube-VOS; its large frames are read no larger than crops need.
    train.sources.youtube_vos = source("ytvos", "data/YouTubeVOS", dataset_name="youtube_vos", short_side=480)

    train.gap = gap = config_dict.ConfigDict()
    # Most frames skipped between two of a clip: from `start` at `begin_step` to `end` at `end_step`.
    gap.start = 0
    # Most frames skipped at the end of the curriculum.
    gap.end = 25
    # Step at which the gap begins to grow.
    gap.begin_step = 0
    # Step at which it has grown.
    gap.end_step = 10_000

    train.augmentation = augmentation = config_dict.ConfigDict()
    # Smallest and largest enlargement, one for all frames of a clip (the paper's: 1, 1.5).
    augmentation.scale = (1.0, 1.5)
    # Share of some object of the first frame that a crop must hold.
    augmentation.keep = 0.25
    # An object of frame 0 with fewer pixels becomes background.
    augmentation.min_pixels = 32
    # A pasted object of a pseudo-clip has at least so many pixels.
    augmentation.paste_min_pixels = 200
    # Probability that one of several objects becomes background.
    augmentation.drop = 0.0
    # Probability that two objects become one.
    augmentation.merge = 0.0
    # Probability of other brightness, contrast, saturation and hue.
    augmentation.colour = 0.0
    # Probability of another JPEG compression.
    augmentation.jpeg = 0.0
    # Probability of blur by defocus or a shaken camera.
    augmentation.blur = 0.0
    # Probability that the light changes from the first frame to the last.
    augmentation.drift = 0.0
    # Factor on how far photos and their objects turn, grow and shift in pseudo-clips.
    augmentation.motion = 1.0

    train.paste = paste = config_dict.ConfigDict()
    # Probability that moving objects of other sequences and photos are laid over a clip (in pseudo-clips:
    # instead of the still ones of other photos); sources are drawn by weight.
    paste.prob = 0.0
    # Fewest and most objects such a clip shows, its own included; train.max_objects of them are followed.
    paste.objects = (3, 5)
    # Probability that one of them shows an object of the clip a second time, often mirrored or recoloured.
    paste.lookalike = 0.4
    # Probability that an object passes behind the clip's own objects.
    paste.behind = 0.4
    # Probability that an object leaves the frame; half of these come back.
    paste.leave = 0.2
    # Smallest and largest object: root of its box's area, as a share of the crop's side.
    paste.size = (0.15, 0.5)

    train.losses = losses = config_dict.ConfigDict()
    # Weights of the terms. Similarity against who is who.
    losses.match = 1.0
    # The null cost against who is there.
    losses.presence = 0.1
    # Soft IoU of the coarse masks.
    losses.coarse_iou = 1.0
    # Bootstrapped cross-entropy of the final masks.
    losses.refined_ce = 1.0
    # Soft IoU of the final masks.
    losses.refined_iou = 1.0
    # Of the proposal network: which locations lie in an object.
    losses.objectness = 1.0
    # How central a location is in its object.
    losses.centerness = 1.0
    # GIoU of the boxes.
    losses.box = 1.0
    # Cross-entropy of the proposals' masks.
    losses.mask_bce = 1.0
    # Dice of the proposals' masks.
    losses.mask_dice = 1.0
    # In pseudo-clips, which know it: cross-entropy of a cell's attention over frame 0, by keys alone, against
    # the cells that show the same point; 0 = not computed. Much larger than the other terms (docs/method.md).
    losses.correspondence = 0.0
    # A proposal is nobody's match unless its IoU with the object's truth is above this.
    losses.match_iou = 0.0
    # Share of a clip's cells, the worst, that cross-entropy counts in the end ...
    losses.hard_share = 0.15
    # ... falling from all of them between these steps.
    losses.hard_begin = 1000
    # The last of these steps.
    losses.hard_end = 5000

    train.step = step = config_dict.ConfigDict()
    # Whether activations are computed again for the gradient instead of kept: less memory, more time.
    step.remat = False
    # Whether the program holds every frame of a clip, or one and a loop: compiles faster, but on CPU its
    # gradients take thirty times as long.
    step.unroll = True
    # Until this step the previous mask is the true one ...
    step.sampling_begin = 1000
    # ... from then on the predicted one with this probability.
    step.sampling_prob = 0.5
    # Share of frames whose proposals are jittered true boxes with distractors, at step 0 ...
    step.oracle_prob = 0.5
    # ... falling to 0 at this step; 0 = the network's own proposals always.
    step.oracle_end = 0
    # Frames after the first that are segmented and remembered without loss or gradient: the memory then holds
    # the model's own masks, as late in a video.
    step.burn_in = 0

    train.corruption = corruption = config_dict.ConfigDict()
    # Errors in masks that are written to the memory, per object and frame: the probability that a blob of
    # another object, or of the background nearby, becomes the object's,
    corruption.take = 0.0
    # that a blob of it becomes background,
    corruption.lose = 0.0
    # that it grows by 16 pixels.
    corruption.grow = 0.0

    train.optim = optim = config_dict.ConfigDict()
    # Learning rate at the end of the warm-up; then it falls as (1 - progress)^power to final_rate times it.
    optim.learning_rate = 5e-4
    # Steps in which the learning rate rises from 0.
    optim.warmup_steps = 200
    # Power of the polynomial by which it falls.
    optim.power = 0.9
    # Share of it that is left at the end.
    optim.final_rate = 0.0
    optim.lr_scales = config_dict.ConfigDict()
    # Factors on it by prefix of a parameter's path; the longest prefix counts.
    optim.lr_scales.backbone = 0.1
    # Prefixes of parameters that stay as they are: "backbone" saves most of the memory and half of the time.
    optim.frozen = ()
    # AdamW's decay, on matrices and convolutions only.
    optim.weight_decay = 1e-2
    # Largest norm of the whole gradient; 0 = any.
    optim.clip_norm = 1.0
    # AdamW's decay of the first moment.
    optim.b1 = 0.9
    # AdamW's decay of the second moment.
    optim.b2 = 0.999
    # AdamW's epsilon.
    optim.eps = 1e-8
    # Of the averaged weights, which are evaluated and exported.
    optim.ema_decay = 0.999

    train.parallel = parallel = config_dict.ConfigDict()
    # How devices share the batch: "shard_map" or "pmap"; same results.
    parallel.kind = "shard_map"
    # Devices over which parameters and optimiser state are sliced; 1 = every device holds all.
    parallel.fsdp = 1
    # Arrays of fewer numbers are not sliced.
    parallel.fsdp_min_size = 4096
    # Parts in which a device works through its clips, one after the other: less memory, more time.
    parallel.accumulate = 1

    train.checkpoint = checkpoint = config_dict.ConfigDict()
    # Steps between two checkpoints; every evaluation writes one besides.
    checkpoint.every = 1000
    # Newest checkpoints kept; with two there is one before a torn one.
    checkpoint.keep_last = 2
    # Checkpoints with the highest held-back J kept besides.
    checkpoint.keep_best = 1

    train.evaluation = evaluation = config_dict.ConfigDict()
    # Steps between two evaluations of J on held-back sequences, step 0 and the last one included; 0 = none.
    evaluation.every = 2000
    # Where the sequences lie (DAVIS layout or a folder of folders); empty = the root of the source davis.
    evaluation.root = ""
    # Which ones; they must not be trained on.
    evaluation.sequences = HELD_BACK
    # Only the first so many frames of each; 0 = all.
    evaluation.frames = 0
    return train


def source(kind, root, *, dataset_name="default", exclude=(), short_side=0):
    """One source of training clips, left out until a recipe gives it a weight."""
    section = config_dict.ConfigDict()
    # "davis_folder", "ytvos", "static", "array_record" (python -m vos_jax.data.build) or "tfds".
    section.kind = kind
    # Its folder.
    section.root = root
    # Share in the mixture; 0 leaves it out.
    section.weight = 0.0
    # Names or patterns to take; empty = all.
    section.sequences = ()
    # Names or patterns to hold back.
    section.exclude = exclude
    # Whose lambda of the matching cost it trains: "default", "static", "davis", "youtube_vos".
    section.dataset_name = dataset_name
    # The list in ImageSets/YEAR, the folder of YouTube-VOS, the split of records.
    section.split = "train"
    # DAVIS year.
    section.year = 2017
    # The folder in JPEGImages and Annotations, where there is one.
    section.resolution = "480p"
    # All objects are one (DAVIS 2016).
    section.merge_objects = False
    # Names or patterns whose masks leave objects unlabelled ("*": all): outside their masks the proposal
    # network is not punished for what it takes for an object.
    section.partial = ()
    # Whether frames without a mask may be in a clip.
    section.unannotated = False
    # Larger frames are shrunk to this short side while decoding; 0 keeps their size.
    section.short_side = short_side
    return section
