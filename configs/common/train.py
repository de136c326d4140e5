"""How a training runs: folder, length, precision, checkpoints, evaluation. Names follow detrex where it has them."""

train = dict(
    output_dir="./output",
    # weights to start from: a file, http(s) or detectron2://; "" = random weights
    init_checkpoint="",
    # run folder or checkpoint of a trained model whose matches are taken, see the overlay distill; "" = none
    teacher="",
    max_iter=90000,
    # passes over the training images, in place of max_iter
    epochs=None,
    # time for all of it, in place of max_iter and the periods: as many steps as fit on this machine
    minutes=None,
    device="cuda",
    # below 0: drawn and logged
    seed=-1,
    # auto: where the device multiplies the type natively; fp16 scales losses, bf16 needs no scaling
    amp=dict(enabled="auto", dtype="bf16"),
    # bucket_cap_mb: gradients that travel together; null = torch's 25, the first 1
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, bucket_cap_mb=None, fp16_compression=False,
             bf16_compression=False),
    # several processes: each holds a part of all weights, gradients and moments (FSDP2), and whole ones when they are
    # used; for backbones whose weights fill a GPU
    fsdp=False,
    # the batch of each process is run in this many parts, with the losses and gradients of the whole
    accumulate_steps=1,
    # total batch that the learning rate and the schedule were chosen for, printed beside the batch in use
    reference_batch=16,
    # learning rates are multiplied by the batch in use over reference_batch
    scale_lr=False,
    # a loss or gradient that is not finite: raise ends the training, skip leaves the weights as they are and goes on,
    # at most so many times in a row; the batch is written into output_dir, and --replay FILE runs it again
    non_finite=dict(policy="raise", limit=10),
    # only: parts of the names of the parameters that are clipped, by their own norm; [] = all
    clip_grad=dict(enabled=False, only=[], params=dict(max_norm=0.1, norm_type=2)),
    # 20 iterations with an evaluation, to see that everything is in place
    fast_dev_run=dict(enabled=False),
    checkpointer=dict(period=5000, max_to_keep=100),
    # model_best.pth by a figure of the evaluation
    # restore: at the end model_final.pth becomes the best checkpoint
    best_checkpoint=dict(enabled=True, metric="bbox/AP", mode="max", restore=False),
    # end after so many evaluations in a row whose metric gains no more than min_delta; 0 = never
    early_stop=dict(patience=0, min_delta=0.0),
    eval_period=5000,
    # losses of the validation data too, as val/..., in each evaluation
    eval_loss=False,
    log_period=20,
    # beside log.txt and metrics.json: lines or a bar on the console, TensorBoard's events, metrics.csv, and Weights &
    # Biases (its files are in output_dir/wandb; WANDB_MODE=online sends them)
    writers=dict(console=True, tensorboard=True, csv=False, wandb=False),
    # warmup: decay of update t is min(decay, (1 + t) / (10 + t)); average: the averaged weights are evaluated, the best
    # checkpoint is chosen by them, and they are predicted with; false: the trained ones
    model_ema=dict(enabled=False, decay=0.999, warmup=False, device="", average=True),
    # --resume: what holds where the config of the command differs from that of the checkpoint: config, checkpoint
    resume_override="config",
    # seconds that one of several processes may be stopped before all are ended; 0 = as long as it is
    watchdog=20.0,
    # start over in a folder that holds another run: its checkpoints, metrics and log go when the new run starts
    overwrite=False,
    # train on the first so many images that have objects and evaluate on the same, without augmentation: a sound setup
    # reaches AP > 90, whatever else is wrong; 0 = off
    overfit=0,
    # report.html in output_dir at the end of a training of 100 steps or more; costs a few seconds
    report=True,
    channels_last=False,
    # null, or backbone, encoder, decoder, all: computed again in the backward pass, which takes less memory, more time
    activation_checkpointing=None,
    # null, or backbone, encoder, decoder, all: a compiled part is faster on a GPU, after minutes for its first steps
    compile=None,
    # run what is compiled as CUDA graphs, the losses outside: where steps wait for the host, and image sizes are few
    cuda_graphs=False,
    cudnn_benchmark=False,
    # "": as torch has it; "high" and "medium" allow TF32 and bf16 in fp32 matrix products
    float32_precision="",
)
