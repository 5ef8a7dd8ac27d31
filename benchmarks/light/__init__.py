"""A service whose kernels are light, so that one machine holds hundreds of sessions.

Controller, agents, leashes and hosts are the real ones, each a process of its own, over their real sockets. Only two
things differ. A host is forked from a process that has imported everything already, so that most of its memory is
shared with all others; and its kernel is an object in that process which answers requests, and computes nothing.
"""
