"""Trainers in torch to test with; the cases are files, and what is learnt does not depend on them."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from wardround.training import Outcome, Parameters
from wardround.training import torch_trainer as base


class Norming(base.TorchTrainer[Parameters]):
    metrics = {"mode": "min", "gradients": "min"}

    def network(self, parameters):
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))

    def data(self, job):
        return job.unsplit(job.data.glob("case-*.txt"))

    def train(self, net, cases, job):
        assert net.training
        optimizer = job.optimizer(torch.optim.Adam(net.parameters(), 0.01))
        x = torch.randn(6, 4)
        for _ in job.epochs():
            for batch in job.steps(DataLoader(TensorDataset(x, x.sum(1)), 6, shuffle=True)):
                loss = ((net(batch[0])[:, 0] - batch[1]) ** 2).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                job.log(loss=loss)
        return Outcome(cases=len(cases))

    def evaluate(self, net, cases, job):
        return Outcome(cases=len(cases), mode=net.training, gradients=net(torch.ones(2, 4)).requires_grad)


class Telling(Norming):
    def train(self, net, cases, job):
        told = {
            "threads": torch.get_num_threads(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "cpu": job.device.type == "cpu",
        }
        return Outcome(cases=len(cases), **told)


class Sharing(Norming):
    def network(self, parameters):
        net = nn.Sequential(
            nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 1, bias=False, dtype=torch.bfloat16)
        )
        net[1].weight = net[0].weight
        return net

    def train(self, net, cases, job):
        with torch.no_grad():
            net[0].weight += 1
        return Outcome(cases=len(cases))

    def evaluate(self, net, cases, job):
        return Outcome(cases=len(cases))


class Secretive(Norming):
    def network(self, parameters):
        class Holding(nn.Linear):
            def get_extra_state(self):
                return {"secret": 1}

        return Holding(1, 1)


class Adams(Norming):
    def network(self, parameters):
        return nn.Linear(3, 1)

    def optimizer(self, net):
        return torch.optim.AdamW(net.parameters(), 0.1)

    def train(self, net, cases, job):
        optimizer = job.optimizer(self.optimizer(net))
        for _ in job.epochs():
            optimizer.zero_grad()
            (net(torch.tensor([[1.0, -2.0, 3.0]])) - 5).square().sum().backward()
            optimizer.step()
        return Outcome(cases=len(cases))

    def evaluate(self, net, cases, job):
        return Outcome(cases=len(cases))


class Momentum(Adams):
    def optimizer(self, net):
        return torch.optim.SGD(net.parameters(), 0.001, momentum=0.9)


class Plain(Adams):
    def optimizer(self, net):
        return torch.optim.SGD(net.parameters(), 0.001)


class Both(Adams):
    def train(self, net, cases, job):
        optimizers = [
            job.optimizer(torch.optim.SGD([net.weight], 0.001, momentum=0.9)),
            job.optimizer(torch.optim.Adam([net.bias], 0.001)),
        ]
        net(torch.ones(1, 3)).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
        return Outcome(cases=len(cases))


class WantingGpu(Norming):
    def train(self, net, cases, job):
        net.cuda()
        return Outcome(cases=len(cases))


class Exhausting(Norming):
    def train(self, net, cases, job):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
