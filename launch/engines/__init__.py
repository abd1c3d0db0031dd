"""Engines that place and start processes on other machines: ssh, Ray, Kubernetes, Slurm, systemd."""
