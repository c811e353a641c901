# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from dvps_ros.errors import InputError
from dvps_ros.geometry.pose import check_pose, inverse, relative, transform

# Quarter turn about z (x to y), then 1, 2, 3.
A_FROM_B = np.array([[0.0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]])


def test_transform_by_hand():
    np.testing.assert_array_equal(
        transform(A_FROM_B, np.array([[1.0, 0, 0], [0, 1, 5]])), [[1, 3, 3], [0, 2, 8]]
    )


def test_inverse_and_relative():
    np.testing.assert_allclose(inverse(A_FROM_B) @ A_FROM_B, np.eye(4), atol=1e-15)
    np.testing.assert_allclose(inverse(np.stack([A_FROM_B, np.eye(4)]))[0], inverse(A_FROM_B))
    b_from_c = np.eye(4)
    b_from_c[0, 3] = 7
    np.testing.assert_allclose(relative(A_FROM_B, A_FROM_B @ b_from_c), b_from_c, atol=1e-15)


@pytest.mark.parametrize(
    "bad",
    [np.full((4, 4), np.nan), np.eye(3), np.diag([1.0, 1, -1, 1]), np.diag([2.0, 2, 2, 1]), np.ones((4, 4))],
)
def test_what_is_not_rigid_is_refused(bad):
    with pytest.raises(InputError, match="world_from_camera"):
        check_pose("world_from_camera", bad)


def test_a_pose_passes():
    check_pose("pose", A_FROM_B)
