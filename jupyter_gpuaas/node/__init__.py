"""What runs on a node: the agent (one a node), the hosts (one a session), the journal, the devices."""
