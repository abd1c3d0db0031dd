"""What matrpo uses of gfootball's interface, with a game of its own: agents that go right push the ball there.

It begins on the middle line, at a height that the seed says. Each of them pushes it by a twentieth; if nobody does, it
goes back by a quarter. In scenarios of the academy a goal ends the episode.
"""
