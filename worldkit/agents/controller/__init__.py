"""The agent ``controller`` of "World Models": one linear layer on what a model sees and remembers, found by CMA-ES.

Source: Ha and Schmidhuber, "World Models" (arXiv:1803.10122), section 2.3 and appendix A.4.
"""
