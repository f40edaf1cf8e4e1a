import io
import zipfile

import torch
from torch import nn


class M(nn.Module):
    def __init__(s):
        super().__init__()
        s.f = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 6, 3, padding=1)
        )
        s.h = nn.Linear(6, 2)

    def forward(s, x):
        return s.h(s.f(x).relu().mean((2, 3)))


m = M().eval()
x = torch.randn(2, 1, 8, 8)
ep = torch.export.export(m, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
b = io.BytesIO()
torch.export.save(ep, b)
data = b.getvalue()
z = zipfile.ZipFile(io.BytesIO(data))
print([(i.filename, i.file_size) for i in z.infolist()])
for n in z.namelist():
    if n.endswith("json"):
        print(n, z.read(n)[:300])
ep2 = torch.export.load(io.BytesIO(data))
u = torch.export.unflatten(ep2)
print(type(u), [n for n, _ in u.named_modules()])
got = []
h = u.get_submodule("f.3").register_forward_hook(lambda mod, i, o: got.append(type(o)))
try:
    u.eval()
    print("eval ok", u.training)
except Exception as e:
    print("eval raises", e)
y = x.clone().requires_grad_()
o = u(y)
print(o.shape, (o - m(x)).abs().max(), got)
(g,) = torch.autograd.grad(o[:, 0].sum(), y)
y2 = x.clone().requires_grad_()
(g2,) = torch.autograd.grad(m(y2)[:, 0].sum(), y2)
print((g - g2).abs().max())
print(u(torch.randn(5, 1, 8, 8)).shape)
print([(n, p.requires_grad) for n, p in u.named_parameters()][:3])
# fixed batch
ep = torch.export.export(m, (x,))
b = io.BytesIO()
torch.export.save(ep, b)
u = torch.export.unflatten(torch.export.load(io.BytesIO(b.getvalue())))
try:
    print("fixed", u(torch.randn(5, 1, 8, 8)).shape)
except Exception as e:
    print("fixed raises", type(e), str(e)[:200])
print([type(mm).__name__ for mm in u.modules()])
