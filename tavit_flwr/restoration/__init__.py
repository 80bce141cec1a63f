"""Loss, PSNR and SSIM, and tiled restoration of whole images."""
