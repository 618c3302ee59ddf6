"""
Generative and discriminative boundaries
========================================

A generative classifier models where the samples of a class lie, and thresholds a probability; a discriminative one
models the boundary alone (Chaudhury 2024, section 14.2 and figure 14.2). With little data the generative boundary is
smoother, and only the generative model knows where there is no data at all.
"""

# %%
# Twenty samples of each class
# ----------------------------
# Both classifiers have networks: one VAE for each class, and scikit-learn's multilayer perceptron.
import matplotlib.pyplot as plt
import numpy as np
from sklatent import GenerativeClassifier, VAETransformer
from sklearn.datasets import make_moons
from sklearn.neural_network import MLPClassifier

X, y = make_moons(40, noise=0.15, random_state=3)
X_test, y_test = make_moons(5000, noise=0.15, random_state=1)
vae = VAETransformer(
    1, hidden_sizes=(32, 32), max_epochs=400, batch_size=20, random_state=0
)
generative = GenerativeClassifier(vae).fit(X, y)
discriminative = MLPClassifier((64, 64), max_iter=3000, random_state=0).fit(X, y)
for name, model in {"generative": generative, "discriminative": discriminative}.items():
    print(f"accuracy on 5000 new points, {name}: {model.score(X_test, y_test):.3f}")

# %%
# Density and boundary
# --------------------
# Left, the density p(x) of both classes together as a heat map, with the boundary where the classes are equally
# probable. Far from all samples the density vanishes, which the discriminative classifier cannot tell: there it is as
# sure as anywhere, as its probabilities on the right show.
sides = np.linspace(-2, 3, 150), np.linspace(-1.6, 2.1, 150)
plane = np.stack(np.meshgrid(*sides), axis=-1)
points = plane.reshape(-1, 2)
shape = plane.shape[:2]
density = generative.score_samples(points).reshape(shape)

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), sharey=True)
heat = left.contourf(*sides, density.clip(-12), levels=25, cmap="magma")
figure.colorbar(heat, ax=left, label="ln p(x), nats")
left.set_title("generative: density, and boundary")
chance = discriminative.predict_proba(points)[:, 1].reshape(shape)
heat = right.contourf(*sides, chance, levels=np.linspace(0, 1, 21), cmap="coolwarm")
figure.colorbar(heat, ax=right, label="p(class 1 | x)", ticks=[0, 0.5, 1])
right.set_title("discriminative: probability, and boundary")
for ax, model in [(left, generative), (right, discriminative)]:
    first = model.predict_proba(points)[:, 1].reshape(shape)
    ax.contour(*sides, first, levels=[0.5], colors="white" if ax is left else "black")
    for label, marker in enumerate("os"):
        ax.scatter(*X[y == label].T, marker=marker, edgecolor="white", s=36)
    ax.set(xlabel="$x_0$")
left.set_ylabel("$x_1$")
figure.tight_layout()

# %%
# A point that belongs to neither class
# -------------------------------------
nowhere = np.array([[-1.5, -1.2]])
sure = discriminative.predict_proba(nowhere).max()
print(f"at {nowhere[0]}: discriminative probability {sure:.3f} of one of the classes,")
print(f"generative ln p(x) {generative.score_samples(nowhere)[0]:.0f} nats, ", end="")
print(f"the lowest of the training samples {generative.score_samples(X).min():.1f}")
plt.show()
