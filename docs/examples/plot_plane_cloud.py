"""
A plane cloud and its principal vectors
=======================================

Points in space that lie near a plane need two numbers each (Chaudhury 2024, section 14.4 and figure 14.3). PCA finds
the plane: its first two principal vectors span it, the third is what is dropped.
"""

# %%
# Two components suffice
# ----------------------
# The cloud lies near the plane x0 = x2. Its third coordinate differs from the first by an integer that is uniform on -5
# to 4, with variance (10² - 1) / 12 = 8.25. Half of it is orthogonal to the plane, and that is what the third component
# finds.
import matplotlib.pyplot as plt
import numpy as np
from sklatent import PCAReducer
from sklatent.datasets import make_plane_cloud
from sklatent.metrics import reconstruction_error

X = make_plane_cloud(1000, random_state=0)
pca = PCAReducer().fit(X)
for variance, vector in zip(pca.explained_variance_, pca.components_, strict=True):
    print(f"variance {variance:7.2f} along {vector.round(2)}")
print(f"variance that is expected of the third: about {8.25 / 2:.2f}")

# %%
# The projection
# --------------
# A point splits into the part in the plane, which the two latent codes keep, and the part orthogonal to it. The mean
# squared length of the latter is the dropped variance.
flat = PCAReducer(2).fit(X)
X_flat = flat.inverse_transform(flat.transform(X))
print(f"mean squared distance from the plane: {reconstruction_error(X, X_flat):.2f}")

figure = plt.figure(figsize=(11, 5), layout="constrained")
space = figure.add_subplot(1, 2, 1, projection="3d")
space.scatter(*X.T, s=3, color="0.6")
origin, lengths = pca.mean_, 2 * np.sqrt(pca.explained_variance_)
for k, (vector, length) in enumerate(zip(pca.components_, lengths, strict=True)):
    tip = np.column_stack([origin, origin + max(length, 12) * vector])
    space.plot(*tip, color=f"C{k}", linewidth=3, label=f"principal vector {k + 1}")
space.set(xlabel="$x_0$", ylabel="$x_1$", zlabel="$x_2$", title="The cloud")
space.view_init(elev=12, azim=-75)
space.legend(loc="upper left")

plane = figure.add_subplot(1, 2, 2)
distance = np.linalg.norm(X - X_flat, axis=1)
points = plane.scatter(*flat.transform(X).T, c=distance, s=8, cmap="viridis")
plane.set(
    xlabel="$z_0$", ylabel="$z_1$", title="Its projection on the plane", aspect="equal"
)
figure.colorbar(points, ax=plane, label="distance from the plane", shrink=0.8)
plt.show()
