"""Decides the text: which tokens of a reply are committed. How fast, pacing/ decides.

"Speculation, section N", in the comments of this and other rooms, means a section of docs/theory.md:

    1  sources
    2  symbols
    3  speeds for a constant acceptance rate: pacing/formulas.py
    4  the stream as it is, and the protocol: owner/session.py, stage/machine.py, docs/protocol.md
    5  acceptance: sampling.py, acceptance.py
    6  windows: controller.py is the port that pacing/ fills
"""
