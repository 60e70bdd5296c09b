"""Who makes gradients: scoring, micro-batches, optimiser steps, and their state on disk."""
