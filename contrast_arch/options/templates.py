"""Text of the option files."""

from string import Template

PAIRS = Template("""\
  $key:
    name: $name
    type: PairedImageDataset
    dataroot_gt: $hr
    dataroot_lq: $lq
${meta_info}    filename_tmpl: '{}x$scale'
    io_backend:
      type: disk

""")
METRICS = """
  metrics:
    psnr:
      type: calculate_psnr
      crop_border: *scale
      test_y_channel: true
      better: higher
    ssim:
      type: calculate_ssim
      crop_border: *scale
      test_y_channel: true
      better: higher
"""
TRAINING = Template("""\
# yaml-language-server: $$schema=$schema
${comments}name: $name
model_type: $model
scale: &scale $scale
num_gpu: auto  # 0 where PyTorch sees none: trains on the CPU
manual_seed: 0

datasets:
${training_pairs}    gt_size: $gt_size  # 64x64 LQ patches
    use_hflip: true
    use_rot: true

    num_worker_per_gpu: 6
    batch_size_per_gpu: $batch
    dataset_enlarge_ratio: 1
    prefetch_mode: ~

${benchmarks}network_g:
$network_g
path:
  pretrain_network_g: $checkpoint
  strict_load_g: $strict
  resume_state: ~

train:
  optim_g:
    type: Adam
    lr: !!float $lr
$betas
  # $schedule
  scheduler:
    type: MultiStepLR
    milestones: $milestones
    gamma: 0.5

  total_iter: $total
  warmup_iter: -1

  pixel_opt:
    type: $loss
    loss_weight: 1.0
    reduction: mean

val:
  val_freq: $interval  # $images images at batch $batch on one GPU
  save_img: false
${metrics}
logger:
  print_freq: 100
  save_checkpoint_freq: $interval
  use_tb_logger: true
  wandb:
    project: ~
    resume_id: ~

dist_params:
  backend: nccl
  port: 29500
""")
TESTING = Template("""\
# yaml-language-server: $$schema=$schema
# $title
# The files of this folder differ in name, network_g, the scale and what it entails, and the checkpoint only.
name: $name
model_type: SRModel
scale: &scale $scale
num_gpu: auto
manual_seed: 0

datasets:
${benchmarks}network_g:
$network_g
path:
  pretrain_network_g: $checkpoint
  param_key_g: params
  strict_load_g: true

val:
  save_img: true
  suffix: ~  # pictures are named after the test
${metrics}""")
