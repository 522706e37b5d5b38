"""Modules are replaced wherever a model holds them."""

from torch import nn

from ndpp_dense.conversion.module_surgery import replace_modules


class Holder(nn.Module):
    def __init__(self, conv, other):
        super().__init__()
        self.conv = conv
        self.alias = conv
        self.absent = None
        self.register_module("empty", None)
        self.listed = [conv, other, "text"]
        self.nested = {"levels": [(conv, 1), [conv]], "other": other}
        self.pair = (conv, other)
        self.__dict__["bare"] = conv  # hidden from registration, as some frameworks do


def _replaced():
    conv, other, new = nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Identity()
    holder = Holder(conv, other)
    return holder, conv, other, new


def test_under_every_name_and_in_every_container():
    holder, conv, other, new = _replaced()
    listed, nested = holder.listed, holder.nested
    replace_modules(holder, {conv: new})
    assert holder.conv is holder.alias is holder.bare is new
    assert holder.listed is listed
    assert listed == [new, other, "text"]
    assert holder.nested is nested
    assert nested == {"levels": [(new, 1), [new]], "other": other}
    assert holder.pair == (new, other)
    assert conv not in list(holder.modules())


def test_deep_inside_and_in_module_containers():
    conv, new = nn.Conv2d(3, 3, 1), nn.Identity()
    model = nn.Sequential(nn.ModuleList([nn.ModuleDict({"a": conv})]), Holder(conv, nn.ReLU()))
    replace_modules(model, {conv: new})
    assert model[0][0]["a"] is model[1].conv is model[1].listed[0] is new


def test_what_is_not_named_is_not_touched():
    holder, conv, other, new = _replaced()
    pair, before = holder.pair, dict(vars(holder))
    replace_modules(holder, {nn.Tanh(): new})
    assert holder.pair is pair
    assert vars(holder).keys() == before.keys()
    assert holder.conv is conv
    assert holder.listed == [conv, other, "text"]


def test_a_module_replaced_by_a_container_around_it_is_replaced_once():
    conv = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(conv)
    wrapper = nn.Sequential(conv, nn.ReLU())
    replace_modules(model, {conv: wrapper})
    assert model[0] is wrapper
    assert wrapper[0] is conv


def test_containers_that_contain_themselves():
    model = nn.Sequential(nn.Linear(2, 2))
    model.things, model.more = [model[0]], {}
    model.things.append(model.things)
    model.more["all"] = (model.more, model[0])
    new = nn.Linear(2, 2)
    replace_modules(model, {model[0]: new})
    assert model[0] is new
    assert model.things[0] is new
    assert model.things[1] is model.things
    assert model.more["all"][1] is new
