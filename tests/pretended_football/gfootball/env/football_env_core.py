import copy

import numpy as np

RIGHT, IDLE = 5, 0


class EnvState:
    def __init__(self):
        self.previous_score_diff = 0
        self.previous_game_mode = -1
        self.prev_ball_owned_team = -1


class Engine:
    """Its state is longer the longer the episode is."""

    def __init__(self):
        self.ball = np.zeros(3)
        self.step = 0
        self.score = [0, 0]

    def get_state(self, pickled):
        assert pickled == b""
        return np.array([self.step, *self.score, *self.ball, *range(self.step)]).tobytes()

    def set_state(self, state):
        step, *rest = np.frombuffer(state).tolist()
        self.step, self.score, self.ball = int(step), [int(goals) for goals in rest[:2]], np.array(rest[2:5])
        assert rest[5:] == list(range(self.step))
        return b""


class FootballEnvCore:
    def __init__(self, config):
        self._config = config
        self._env = Engine()
        self.reset(inc=0)

    def reset(self, inc=1):
        self._config.NewScenario(inc)
        seed = self._config["game_engine_random_seed"]
        assert self._config._values.get("reverse_team_processing", False) == bool(seed % 2)
        self._state = EnvState()
        self._env.__init__()
        self._env.ball = np.array([0.0, (seed % 9) / 100, 0.1])
        self._kick_off = self._config["episode_number"] % 2
        self._retrieve_observation()
        return True

    def step(self, actions):
        assert len(actions) == self._config.number_of_left_players()
        assert all(type(action) is int and 0 <= action < 19 for action in actions)
        engine, pushing = self._env, actions.count(RIGHT)
        engine.ball[0] += 0.05 * pushing if pushing else -0.25
        engine.step += 1
        if abs(engine.ball[0]) > 0.999:
            engine.score[int(engine.ball[0] < 0)] += 1
            engine.ball[0] = 0.0
        reward = engine.score[0] - engine.score[1] - self._state.previous_score_diff
        self._state.previous_score_diff += reward
        over = engine.step >= self._config.ScenarioConfig().game_duration
        over |= bool(reward) and self._config["level"].startswith("academy")
        self._retrieve_observation()
        return self._observation, reward, over, {}

    def observation(self):
        return copy.deepcopy(self._observation)

    def _retrieve_observation(self):
        controlled = self._config.number_of_left_players()
        self._observation = {
            "ball": self._env.ball,
            "ball_direction": np.array([0.01, 0.0, self._kick_off]),
            "ball_owned_team": 0,
            "ball_owned_player": 1,
            "left_team": np.array([[-1.0, 0.0], *([0.1 * k, 0.1] for k in range(controlled))]),
            "left_team_direction": np.zeros((1 + controlled, 2)),
            "right_team": np.array([[1.0, 0.0], [0.5, -0.2]]),
            "right_team_direction": np.zeros((2, 2)),
            "left_agent_controlled_player": list(range(1, 1 + controlled)),
            "game_mode": 0,
            "score": list(self._env.score),
            "steps_left": self._config.ScenarioConfig().game_duration - self._env.step,
        }
        return True
