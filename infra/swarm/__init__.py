"""Several machines: the stack file for Docker Swarm, and what must hold before it is deployed."""
