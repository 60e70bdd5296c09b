"""What the tests of the sampler share: problems, scripts that answer them, a sampler of few prompts."""

from run_support import tiny_policy

from groupwise.core.rollout import Prompt
from groupwise.core.services import Sampling
from groupwise.engines.scripted import Scripted
from groupwise.methods.method import Method
from groupwise.models.template import fill, tokenise
from groupwise.objective.baselines import GroupMean
from groupwise.objective.credit import Advantage
from groupwise.objective.objective import Objective
from groupwise.objective.terms import Policy
from groupwise.run.collect import Sampler

POLICY = tiny_policy()
OBJECTIVE = Objective(Advantage(baseline=GroupMean()), (Policy(),))
EOS = POLICY.eos_ids[0]


def encode(text):
    return tokenise(POLICY.tokenizer, text)


def problems(n=8):
    """3+0=, 3+1= ... with their answers."""
    return fill([Prompt(f"p{i}", f"3+{i}=", 3 + i) for i in range(n)], POLICY.tokenizer, "none", 100)


def sampler_of(grader, script, method=None, *, prompts=2, size=2, max_tokens=8, seed=0, **more):
    engine = Scripted(script) if callable(script) else script
    return Sampler(method or Method(OBJECTIVE), engine, grader, POLICY, problems(), Sampling(max_tokens=max_tokens),
                   prompts_per_step=prompts, group_size=size, seed=seed, **more)


def collected(sampler, step=0):
    return sampler.collect(sampler.draw(step), step)


def text_of(tokens):
    return POLICY.tokenizer.decode(tokens)


def answers(wrong=()):
    """A script: the right answer for even samples, for all of the prompts in `wrong` (by their second term) never."""
    def script(request, sample):
        _, second = text_of(request.context.tokens).rstrip("=").split("+")
        right = sample % 2 == 0 and int(second) not in wrong
        return (*encode(str(3 + int(second)) if right else "0"), EOS)
    return script
