"""What is stored reaches the EC's own systems: by webhook, in a folder, through the feed. All in one order."""
