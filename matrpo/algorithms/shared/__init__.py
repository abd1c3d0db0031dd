"""What several algorithms share: policy updates, critics, rollouts, replay."""
