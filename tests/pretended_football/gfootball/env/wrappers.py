import numpy as np

TEAMS = ("left_team", "left_team_direction", "right_team", "right_team_direction")


class Simple115StateWrapper:
    @staticmethod
    def convert_observation(observation, fixed_positions):
        assert fixed_positions
        rows = []
        for seen in observation:
            flat = [np.pad(seen[team].ravel(), (0, 22 - seen[team].size), constant_values=-1.0) for team in TEAMS]
            owned, active, mode = np.eye(3)[seen["ball_owned_team"] + 1], np.eye(11)[seen["active"]], np.eye(7)
            rows.append(
                np.concatenate([*flat, seen["ball"], seen["ball_direction"], owned, active, mode[seen["game_mode"]]])
            )
        return np.array(rows, dtype=np.float32)
