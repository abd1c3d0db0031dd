from types import SimpleNamespace


class Config:
    def __init__(self, values):
        self._values = dict(values)
        self.NewScenario()

    def __getitem__(self, key):
        return self._values[key]

    def update(self, values):
        self._values.update(values)

    def number_of_left_players(self):
        (player,) = self._values["players"]
        return int(player.removeprefix("agent:left_players="))

    def ScenarioConfig(self):  # noqa: N802
        return self._scenario

    def NewScenario(self, inc=1):  # noqa: N802
        self._values["episode_number"] = self._values.get("episode_number", 0) + inc
        if self._values["level"] == "academy_corner":
            raise AssertionError("the engine\nbroke down")
        print("a scenario was built")
        self._scenario = SimpleNamespace(game_duration=400)
