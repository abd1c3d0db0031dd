"""What places and starts processes on other machines: ssh, Ray, Kubernetes, Slurm, systemd."""
